use measured_boot::manifest::{Container, SecretTarget};
use oci_spec::image::ImageConfiguration;
use serde_json::json;

use super::{mountpoint, resolve};
use crate::config::Config;
use crate::fixture::{ELF, Layer, apply, layers, runtime};
use crate::tree::{Last, Tree};

fn resolved(
    config: &str,
    layers: &[Vec<u8>],
    runtime: &serde_json::Value,
) -> anyhow::Result<(Container, Tree)> {
    let image = json!({"architecture": "amd64", "os": "linux", "config": runtime,
                       "rootfs": {"type": "layers", "diff_ids": []}});
    let image = ImageConfiguration::from_reader(image.to_string().as_bytes()).unwrap();
    let config = format!("[image]\nname = \"t\"\nversion = 1\n[container]\n{config}");
    let (tree, spool, mut notes) = apply(layers)?;
    let container = resolve(&Config::parse(&config)?, &image, &tree, &spool, &mut notes)?;
    Ok((container, tree))
}

fn error(config: &str, layers: &[Vec<u8>]) -> String {
    format!(
        "{:#}",
        resolved(config, layers, &runtime()).map(drop).unwrap_err()
    )
}

#[test]
fn takes_the_images_word_and_makes_it_concrete() {
    let (c, _) = resolved("", &layers(), &runtime()).unwrap();
    assert_eq!(c.argv, ["/usr/bin/app", "--serve"]);
    assert_eq!(c.env, ["PATH=/usr/bin:/bin", "A=1", "HOME=/srv"]);
    assert_eq!((c.cwd.as_str(), c.uid, c.gid), ("/srv", 33, 44));
    assert_eq!(c.groups, [8, 9]);
    assert_eq!((c.stop_signal, c.capabilities, c.pids), (3, 0, 512));
}

#[test]
fn the_config_overrides_the_image() {
    let config = "argv = [\"./app\", \"x\"]\ncwd = \"/bin\"\nuser = \"7:www\"\nenv = [\"A=2\", \"B=3\"]\nstop_signal = 9\n";
    let (c, _) = resolved(config, &layers(), &runtime()).unwrap();
    assert_eq!(c.argv, ["/bin/app", "x"]);
    assert_eq!(c.env, ["PATH=/usr/bin:/bin", "A=2", "B=3", "HOME=/"]);
    assert_eq!((c.uid, c.gid, c.groups.len(), c.stop_signal), (7, 44, 0, 9));
}

#[test]
fn scripts_are_run_by_their_interpreter() {
    let mut layers = layers();
    layers.push(
        Layer::new()
            .file("bin/start", 0o755, b"#! /bin/app -e\n...")
            .finish(),
    );
    let (c, _) = resolved("argv = [\"start\", \"x\"]", &layers, &runtime()).unwrap();
    assert_eq!(c.argv, ["/bin/app", "-e", "/usr/bin/start", "x"]);
}

#[test]
fn rejects_programs_that_cannot_run_and_unknown_names() {
    let other = [&ELF[..18], &[183, 0], &ELF[20..]].concat();
    let mut layers = layers();
    let more = Layer::new()
        .file("bin/data", 0o644, ELF)
        .file("bin/arm", 0o755, &other)
        .file("bin/text", 0o755, b"hello");
    layers.push(more.finish());
    for (config, expected) in [
        ("argv = [\"absent\"]", "PATH is /usr/bin:/bin"),
        ("argv = [\"/bin/data\"]", "not an executable file"),
        ("argv = [\"/bin\"]", "is a directory"),
        ("argv = [\"/bin/arm\"]", "not an x86-64 ELF"),
        ("argv = [\"text\"]", "not an x86-64 ELF"),
        ("argv = []", "neither entrypoint nor command"),
        ("user = \"nobody\"", "/etc/passwd"),
        ("user = \"0:nogroup\"", "/etc/group"),
        ("cwd = \"/a/../b\"", "has '..'"),
        ("env = [\"NOVALUE\"]", "expected NAME=value"),
    ] {
        let text = error(config, &layers);
        assert!(text.contains(expected), "{config}: {text}");
    }
}

#[test]
fn secrets_get_a_tmpfs_and_mount_points_are_made() {
    let config =
        "[[container.secret]]\nresource = \"kbs:///a/b/c\"\npath = \"/run/secrets/token\"\n";
    let (c, mut tree) = resolved(config, &layers(), &runtime()).unwrap();
    assert_eq!(c.tmpfs[0].path, "/run/secrets");
    assert_eq!((c.tmpfs[0].mode, c.tmpfs[0].uid), (0o500, 33));
    assert!(matches!(&c.secrets[0].target, SecretTarget::File(f) if f.mode == 0o400));
    mountpoint::add(&mut tree, &c, Some("/private"), &[]).unwrap();
    for path in ["/proc", "/dev", "/run/secrets", "/private"] {
        let real = tree.resolve(path.as_bytes(), Last::Keep).unwrap();
        assert!(tree.directory(&real).is_some(), "{path}");
    }
    assert!(tree.leaf(b"/etc/resolv.conf").is_ok());
}

#[test]
fn rejects_mount_points_behind_links_and_inside_each_other() {
    let tmpfs = |paths: &[&str]| -> String {
        let one = |path: &&str| format!("[[container.tmpfs]]\npath = \"{path}\"\nsize = 4096\n");
        paths.iter().map(one).collect()
    };
    for (paths, expected) in [
        (&["/usr/bin"][..], "/usr/bin is a symbolic link"),
        (&["/run", "/run/lock"], "inside the mount at /run"),
        (&["/run", "/run"], "inside the mount at /run"),
        (&["/dev/shm"], "inside /dev"),
        (&["/srv/data"], "is not a directory"),
        (&["/private"], "inside the mount at /private"),
    ] {
        let (c, mut tree) = resolved(&tmpfs(paths), &layers(), &runtime()).unwrap();
        let added = mountpoint::add(&mut tree, &c, Some("/private"), &[]);
        let text = format!("{:#}", added.unwrap_err());
        assert!(text.contains(expected), "{text}");
    }
}
