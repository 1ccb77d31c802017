//! Two root filesystems, file by file, and the manifest in them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::erofs::{self, Node};
use super::{Difference, FormatError, Image, Part, excerpt, first_difference, text};
use crate::cmdline::Cmdline;
use crate::hash_tree::HashTree;
use crate::manifest;

/// Compares the filesystems, and each with the root hash that its image's
/// command line promises.
pub(super) fn compare(a: &Image<'_>, b: &Image<'_>) -> Result<Vec<Difference>, FormatError> {
    let mut differences = Vec::new();
    let [hash_a, hash_b] = [a, b].map(root_hashes);
    let broken = |(named, found): &(Option<String>, Option<String>)| named != found;
    if broken(&hash_a) || broken(&hash_b) {
        let told = |(named, found): (Option<String>, Option<String>)| {
            let [named, found] = [named, found].map(|hash| hash.unwrap_or("none".into()));
            format!("{found}, command line: {named}")
        };
        differences.push(Difference {
            part: Part::Rootfs,
            place: "root hash of the file".into(),
            a: Some(told(hash_a)),
            b: Some(told(hash_b)),
        });
    }
    if a.rootfs == b.rootfs {
        return Ok(differences);
    }
    let before = differences.len();
    let (list_a, list_b) = (erofs::list(a.rootfs)?, erofs::list(b.rootfs)?);
    let paths: BTreeSet<_> = list_a.keys().chain(list_b.keys()).collect();
    for path in paths {
        let (in_a, in_b) = (list_a.get(path), list_b.get(path));
        if in_a == in_b {
            continue;
        }
        if let (Some(in_a), Some(in_b)) = (in_a, in_b)
            && path == manifest::PATH.as_bytes()
            && let Some(members) = manifests(in_a, in_b)
        {
            differences.extend(members);
            continue;
        }
        differences.push(node(path, in_a, in_b));
    }
    if differences.len() == before {
        let offset = first_difference(a.rootfs, b.rootfs);
        differences.push(Difference {
            part: Part::Rootfs,
            place: format!("offset {offset:#x}, in no file: layout or hash tree"),
            a: Some(excerpt(a.rootfs, offset)),
            b: Some(excerpt(b.rootfs, offset)),
        });
    }
    Ok(differences)
}

/// The root hash in the command line, and that of the blocks it speaks of.
fn root_hashes(image: &Image<'_>) -> (Option<String>, Option<String>) {
    let line = core::str::from_utf8(image.cmdline).ok();
    let Some(cmdline) = line.and_then(|line| Cmdline::parse(line).ok()) else {
        return (None, None);
    };
    let blocks = usize::try_from(cmdline.geometry.data_blocks()).ok();
    let tree = blocks
        .and_then(|blocks| image.rootfs.get(..blocks.checked_mul(4096)?))
        .and_then(|data| HashTree::of_bytes(data, &[]));
    let hex = |hash: [u8; 32]| crate::base16::encode(&hash);
    (
        Some(hex(cmdline.root_hash.0)),
        tree.map(|tree| hex(tree.root_hash.0)),
    )
}

/// `None` when one is not JSON; then it is a file like any other.
fn manifests(a: &Node<'_>, b: &Node<'_>) -> Option<Vec<Difference>> {
    let parse = |node: &Node<'_>| serde_json::from_slice::<Value>(&node.contents()).ok();
    let members = text::members(&parse(a)?, &parse(b)?);
    (!members.is_empty()).then_some(members)
}

fn node(path: &[u8], a: Option<&Node<'_>>, b: Option<&Node<'_>>) -> Difference {
    let path = format!("/{}", String::from_utf8_lossy(path));
    let (Some(a), Some(b)) = (a, b) else {
        let whole = |node: &Node<'_>| format!("{}, {} bytes", metadata(node), node.size());
        return Difference {
            part: Part::Rootfs,
            place: path,
            a: a.map(whole),
            b: b.map(whole),
        };
    };
    if metadata(a) != metadata(b) || a.xattrs != b.xattrs {
        let told = |node: &Node<'_>| match node.xattrs {
            [] => metadata(node),
            xattrs => format!("{}, attributes {}", metadata(node), excerpt(xattrs, 0)),
        };
        return Difference {
            part: Part::Rootfs,
            place: format!("{path}: mode, owner or attributes"),
            a: Some(told(a)),
            b: Some(told(b)),
        };
    }
    let [a, b] = [a, b].map(Node::contents);
    let offset = first_difference(&a, &b);
    Difference {
        part: Part::Rootfs,
        place: format!("{path}: contents from offset {offset:#x}"),
        a: Some(excerpt(&a, offset)),
        b: Some(excerpt(&b, offset)),
    }
}

fn metadata(node: &Node<'_>) -> String {
    let kind = match node.mode & 0o170_000 {
        0o040_000 => "folder",
        0o100_000 => "file",
        0o120_000 => "link",
        _ => "other",
    };
    let permissions = node.mode & 0o7777;
    format!("{kind} {permissions:04o} {}:{}", node.uid, node.gid)
}
