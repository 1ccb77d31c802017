use super::{Config, Network, Root};

const MINIMAL: &str = "[image]\nname = \"demo\"\nversion = 3\n";

fn error(more: &str) -> String {
    let parsed = Config::parse(&format!("{MINIMAL}{more}"));
    format!("{:#}", parsed.map(drop).unwrap_err())
}

#[test]
fn every_default_is_the_safe_one() {
    let config = Config::parse(MINIMAL).unwrap();
    assert_eq!(format!("{:?}", config.logs), "None");
    assert!(
        !config
            .attestation
            .tee
            .contains(&measured_boot::manifest::Tee::Tpm)
    );
    assert_eq!(config.container.capabilities.0, 0);
    assert_eq!(config.container.writable, None);
    assert_eq!(config.container.root, Root::Rootfs);
    assert!(config.network.is_none() && config.broker.is_none());
    let limits = config.container.rlimits.with_defaults();
    let limits: Vec<_> = limits.iter().map(|l| (l.number, l.soft, l.hard)).collect();
    assert_eq!(limits, [(4, 0, 0), (7, 1024, 4096)]);
}

#[test]
fn reads_everything() {
    let config = Config::parse(
        r#"
        logs = "console"
        [image]
        name = "demo"
        version = 3
        [oci]
        digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        [attestation]
        tee = ["tpm"]
        [broker]
        url = "https://kbs.example.org:8443"
        ca = "broker-ca.pem"
        [boot]
        source = "private/"
        key = "kbs:///demo/boot/key"
        mount = "/private"
        [container]
        memory = "256M"
        writable = "64M"
        capabilities = ["CAP_NET_BIND_SERVICE", "CHOWN"]
        rlimits = { nofile = "10:20", as = "unlimited", nproc = 5 }
        stop_signal = "SIGRTMIN+3"
        stop_grace = "30s"
        [[container.tmpfs]]
        path = "/tmp"
        size = 4096
        mode = 0o700
        [[volume]]
        name = "data"
        key = "kbs:///demo/data/key"
        mount = "/var/lib/app"
        size = "64M"
        [[container.secret]]
        resource = "kbs:///demo/app/token"
        path = "/run/secrets/token"
        mode = "440"
        [network]
        mode = "static"
        address = "10.0.2.15"
        prefix = 24
        "#,
    )
    .unwrap();
    let container = &config.container;
    assert_eq!(container.memory.unwrap().0, 256 << 20);
    assert_eq!(container.capabilities.0, 1 << 10 | 1);
    assert_eq!(container.stop_signal.unwrap().0, 37);
    assert_eq!(container.stop_grace.unwrap().0, 30);
    assert_eq!(container.tmpfs[0].mode.unwrap().0, 0o700);
    assert_eq!(container.secret[0].mode.unwrap().0, 0o440);
    let limits = container.rlimits.with_defaults();
    let limits: Vec<_> = limits.iter().map(|l| (l.number, l.soft, l.hard)).collect();
    assert_eq!(
        limits,
        [(4, 0, 0), (6, 5, 5), (7, 10, 20), (9, u64::MAX, u64::MAX)]
    );
    assert!(matches!(
        config.network,
        Some(Network::Static { prefix: 24, .. })
    ));
}

#[test]
fn errors_name_the_line_and_what_was_expected() {
    for (text, expected) in [
        ("[container]\nmemroy = 1\n", "memroy"),
        (
            "[container]\nmemory = \"64 MB\"\n",
            "expected a size in bytes",
        ),
        ("[container]\nmemory = -1\n", "expected a size in bytes"),
        (
            "[container]\ncapabilities = [\"ROOT\"]\n",
            "unknown capability \"ROOT\"",
        ),
        (
            "[container]\ncapabilities = [\"CAP_SYS_PTRACE\"]\n",
            "refused capability \"CAP_SYS_PTRACE\"",
        ),
        (
            "[container]\nrlimits = { files = 1 }\n",
            "unknown resource limit \"files\"",
        ),
        (
            "[container]\nrlimits = { nofile = \"2:1\" }\n",
            "SOFT at most HARD",
        ),
        (
            "[container]\nstop_signal = \"SIGNOPE\"\n",
            "expected a signal",
        ),
        (
            "[container]\nstop_signal = \"SIGSTOP\"\n",
            "expected a signal that a program can get",
        ),
        (
            "[container]\nstop_signal = 17\n",
            "expected a signal that a program can get",
        ),
        ("[oci]\ndigest = \"md5:00\"\n", "expected sha256:"),
        ("[[volume]]\nname = \"data\"\n", "missing field `key`"),
        (
            "[network]\nmode = \"static\"\naddress = \"fe80::1\"\nprefix = 1\n",
            "IPv4",
        ),
        (
            "[boot]\nkey = \"kbs://host/a/b/c\"\n",
            "kbs:///REPOSITORY/TYPE/TAG",
        ),
    ] {
        let text = error(text);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("line "), "{text}");
    }
    let both = "[[container.secret]]\nresource = \"kbs:///a/b/c\"\npath = \"/a/b\"\nenv = \"A\"\n";
    assert!(error(both).contains("either path or env"));
}

#[test]
fn mutated_configs_never_panic() {
    let mut state = 7u32;
    let text = format!("{MINIMAL}[container]\nmemory = \"1M\"\nrlimits = {{ as = \"1:2\" }}\n");
    for _ in 0..5000 {
        let mut bytes = text.clone().into_bytes();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = (state >> 8) as usize % bytes.len();
        bytes[at] = (state >> 4) as u8;
        drop(Config::parse(&String::from_utf8_lossy(&bytes)));
    }
}
