use super::*;

fn sample() -> Manifest {
    Manifest {
        version: VERSION,
        image: Image {
            name: "demo".into(),
            version: 1,
        },
        logs: Logs::Console,
        attestation: Attestation {
            tee: vec![Tee::Tpm],
        },
        broker: Some(Broker {
            url: "https://kbs.example.org:8443".into(),
            ca: Bytes(vec![0x30, 0]),
            not_before: 1_700_000_000,
        }),
        network: Some(Network::Dhcp {}),
        boot: Some(BootFilesystem {
            key: Resource::parse("kbs:///demo/boot/key").unwrap(),
            content_id: Hex32([1; 32]),
            root_hash: Hex32([2; 32]),
            data_blocks: 9,
            mount: Some("/private".into()),
        }),
        volumes: vec![PersistentVolume {
            name: "data".into(),
            key: Resource::parse("kbs:///demo/data/key").unwrap(),
            mount: "/var/lib/app".into(),
            data_blocks: 16384,
            epoch: 1,
        }],
        container: Container {
            root: ContainerRoot::Rootfs,
            argv: vec!["/bin/demo".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            hostname: "demo".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![],
            capabilities: 0,
            seccomp: Bytes(vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f]),
            rlimits: vec![Rlimit {
                number: 4,
                soft: 0,
                hard: 0,
            }],
            memory: Some(256 << 20),
            pids: 1024,
            writable: None,
            tmpfs: vec![Tmpfs {
                path: "/run/secrets".into(),
                size: 65536,
                mode: 0o755,
                uid: 0,
                gid: 0,
            }],
            secrets: vec![Secret {
                resource: Resource::parse("kbs:///demo/app/token").unwrap(),
                target: SecretTarget::File(SecretFile {
                    path: "/run/secrets/token".into(),
                    mode: 0o400,
                    uid: 1000,
                    gid: 1000,
                }),
            }],
            stop_signal: 15,
            stop_grace_seconds: 10,
        },
    }
}

impl PersistentVolume {
    fn named(&self, name: &str) -> Self {
        let name = name.into();
        Self {
            name,
            ..self.clone()
        }
    }
}

#[test]
fn volumes_need_a_broker() {
    let mut manifest = sample();
    manifest.broker = None;
    manifest.boot = None;
    manifest.container.secrets.clear();
    assert!(manifest.to_json().is_err());
    manifest.volumes.clear();
    manifest.to_json().unwrap();
}

#[test]
fn round_trips() {
    let json = sample().to_json().unwrap();
    assert_eq!(Manifest::parse(&json).unwrap(), sample());
}

#[test]
fn rejects_unknown_duplicate_and_trailing() {
    let json = String::from_utf8(sample().to_json().unwrap()).unwrap();
    let bad = [
        json.replacen("\"version\":1", "\"version\":1,\"debug\":true", 1),
        json.replacen("\"version\":1", "\"version\":1,\"version\":1", 1),
        json.replacen("\"mode\":\"dhcp\"", "\"mode\":\"dhcp\",\"x\":1", 1),
        json.replacen(
            "\"mode\":\"dhcp\"",
            "\"mode\":\"dhcp\",\"mode\":\"dhcp\"",
            1,
        ),
        json.replacen("\"uid\":1000", "\"uid\":1000,\"uid\":0", 1),
        json.replacen("\"version\":1", "\"version\":2", 1),
        json.replacen("[\"tpm\"]", "[\"snp\",\"tpm\"]", 1),
        json.replacen("https:", "http:", 1),
        format!("{json} x"),
    ];
    for text in &bad {
        assert_ne!(*text, json, "the replacement must change something");
        assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn rejects_members_out_of_bounds() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("image.name", |m| m.image.name = "Demo".into()),
        ("attestation.tee", |m| m.attestation.tee.clear()),
        ("network", |m| m.network = None),
        ("boot.data_blocks", |m| {
            m.boot.as_mut().unwrap().data_blocks = 0
        }),
        ("boot.mount", |m| {
            m.boot.as_mut().unwrap().mount = Some("/a/../b".into())
        }),
        ("volumes", |m| m.volumes[0].name = "Data".into()),
        ("volumes", |m| m.volumes[0].data_blocks = 1),
        ("volumes", |m| m.volumes.push(m.volumes[0].clone())),
        ("volumes.length", |m| {
            m.volumes = (0..9)
                .map(|i| m.volumes[0].named(&format!("v{i}")))
                .collect();
        }),
        ("volumes.mount", |m| m.volumes[0].mount = "data".into()),
        ("volumes.epoch", |m| m.volumes[0].epoch = 0),
        ("container.argv", |m| m.container.argv = vec!["demo".into()]),
        ("container.argv", |m| m.container.argv.clear()),
        ("container.env", |m| m.container.env = vec!["=x".into()]),
        ("container.capabilities", |m| {
            m.container.capabilities = 1 << 41
        }),
        // CAP_SYS_ADMIN, with which a workload could mount configfs.
        ("container.capabilities", |m| {
            m.container.capabilities = 1 << 21
        }),
        ("container.seccomp", |m| m.container.seccomp.0.clear()),
        ("container.rlimits", |m| {
            let limit = m.container.rlimits[0];
            m.container.rlimits.push(limit);
        }),
        ("container.secrets", |m| m.container.tmpfs.clear()),
        ("container.stop_signal", |m| m.container.stop_signal = 0),
        ("container.pids", |m| m.container.pids = 0),
        ("broker", |m| (m.broker, m.boot) = (None, None)),
        ("broker.ca.length", |m| {
            m.broker.as_mut().unwrap().ca.0 = vec![0; 8193]
        }),
        ("boot", |m| {
            m.container.root = ContainerRoot::Boot;
            m.boot = None;
        }),
        ("container.groups.length", |m| {
            m.container.groups = vec![0; 65]
        }),
        ("container.memory", |m| m.container.memory = Some(1 << 44)),
        ("container.writable", |m| m.container.writable = Some(4095)),
        ("container.tmpfs.size", |m| m.container.tmpfs[0].size = 0),
        ("container.tmpfs.mode", |m| {
            m.container.tmpfs[0].mode = 0o2000
        }),
    ];
    for (member, change) in changes {
        let mut manifest = sample();
        change(&mut manifest);
        match manifest.to_json() {
            Err(Error::Member { name, .. }) => assert_eq!(name, *member),
            other => panic!("{member}: {other:?}"),
        }
    }
}

#[test]
fn resource_paths_follow_trustees_rule() {
    assert_eq!(Resource::parse("kbs:///a/b/c").unwrap().path(), "a/b/c");
    for uri in [
        "a/b/c",
        "kbs://host/a/b/c",
        "kbs:///a/b",
        "kbs:///a/b/c/d",
        "kbs:///a//c",
        "kbs:///.a/b/c",
        "kbs:///a/../c",
        "kbs:///a/b/c?x",
        "kbs:///a/b/%41",
    ] {
        assert!(Resource::parse(uri).is_none(), "{uri}");
    }
}
