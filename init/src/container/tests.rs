use std::string::String;
use std::vec;
use std::vec::Vec;

use measured_boot::manifest::{
    Bytes, Container, ContainerRoot, Resource, Secret, SecretFile, SecretTarget,
};

use super::{ReleasedSecret, environment, resolver};
use crate::secret::SecretBytes;

fn container(env: &[&str]) -> Container {
    Container {
        root: ContainerRoot::Rootfs,
        argv: vec!["/bin/true".into()],
        env: env.iter().map(|entry| String::from(*entry)).collect(),
        cwd: "/".into(),
        hostname: "test".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
        capabilities: 0,
        seccomp: Bytes(vec![0; 8]),
        rlimits: vec![],
        memory: None,
        pids: 1,
        writable: None,
        tmpfs: vec![],
        secrets: vec![],
        stop_signal: 15,
        stop_grace_seconds: 1,
    }
}

fn secret(target: SecretTarget, value: &[u8]) -> ReleasedSecret {
    let resource = Resource::from_path("a/b/c").unwrap();
    ReleasedSecret {
        secret: Secret { resource, target },
        value: SecretBytes::new(value.to_vec()),
    }
}

fn variable(name: &str, value: &[u8]) -> ReleasedSecret {
    secret(SecretTarget::Env(name.into()), value)
}

#[test]
fn a_secret_replaces_the_variable_of_its_name_and_no_other() {
    let secrets = vec![variable("TOKEN", b"new=1")];
    let (environment, files) =
        environment(&container(&["TOKEN=old", "TOKEN_2=x", "A=TOKEN"]), secrets).unwrap();
    let entries: Vec<&[u8]> = environment.iter().map(SecretBytes::expose).collect();
    assert_eq!(
        entries,
        [&b"TOKEN_2=x\0"[..], b"A=TOKEN\0", b"TOKEN=new=1\0"]
    );
    assert!(files.is_empty());
}

#[test]
fn a_file_is_no_part_of_the_environment() {
    let file = SecretFile {
        path: "/run/key".into(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    let secrets = vec![secret(SecretTarget::File(file), b"\0\xff")];
    let (environment, files) = environment(&container(&[]), secrets).unwrap();
    assert!(environment.is_empty());
    assert_eq!(files.len(), 1);
}

#[test]
fn a_secret_that_no_variable_can_hold_is_refused_without_showing_it() {
    for value in [&b"canary\0"[..], b"canary\xff"] {
        let failure = environment(&container(&[]), vec![variable("KEY", value)]).unwrap_err();
        assert_eq!(failure.action, "set variable KEY");
    }
}

#[test]
fn without_name_servers_there_is_no_resolver_file() {
    assert_eq!(resolver(&[]), None);
    let file = resolver(&[[10, 0, 2, 3].into(), [1, 1, 1, 1].into()]).unwrap();
    assert_eq!(file, "nameserver 10.0.2.3\nnameserver 1.1.1.1\n");
}
