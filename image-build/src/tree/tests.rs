use tar::EntryType;

use super::{Content, Entry, Last, Tree, show_real};
use crate::fixture::{Layer, apply};

fn names(tree: &Tree, path: &[u8]) -> Vec<String> {
    let real = tree.resolve(path, Last::Follow).unwrap();
    let entries = tree.directory(&real).unwrap().entries();
    entries
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect()
}

fn error(layer: Layer) -> String {
    format!("{:#}", apply(&[layer.finish()]).map(drop).unwrap_err())
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = Layer::new()
        .file("d/a", 0o644, b"")
        .file("d/b", 0o644, b"")
        .file("e/x", 0o644, b"");
    // The opaque mark comes after what the same layer adds.
    let upper = Layer::new()
        .file("d/c", 0o644, b"")
        .file("d/.wh..wh..opq", 0o644, b"")
        .file("e/.wh.x", 0o644, b"")
        .file("e/y", 0o644, b"")
        .file("e/.wh.y", 0o644, b"")
        .file("e/.wh.never-there", 0o644, b"");
    let (tree, ..) = apply(&[lower.finish(), upper.finish()]).unwrap();
    assert_eq!(names(&tree, b"/d"), ["c"]);
    assert_eq!(names(&tree, b"/e"), ["y"]);
}

#[test]
fn a_directory_replaced_by_a_file_and_back() {
    let one = Layer::new().file("p/inner", 0o644, b"");
    let two = Layer::new().file("p", 0o644, b"now a file");
    let three = Layer::new().directory("p");
    let (tree, ..) = apply(&[one.finish(), two.finish()]).unwrap();
    assert!(tree.leaf(b"/p").is_ok());
    let one = Layer::new().file("p/inner", 0o644, b"").finish();
    let two = Layer::new().file("p", 0o644, b"now a file").finish();
    let (tree, ..) = apply(&[one, two, three.finish()]).unwrap();
    assert!(names(&tree, b"/p").is_empty());
}

#[test]
fn links_are_followed_inside_the_root() {
    let layer = Layer::new()
        .directory("real")
        .symlink("abs", "/real")
        .symlink("up", "../../../../real")
        .symlink("loop", "loop")
        .file("abs/one", 0o644, b"1")
        .file("up/two", 0o644, b"2")
        .hardlink("again", "abs/one");
    let (tree, ..) = apply(&[layer.finish()]).unwrap();
    assert_eq!(names(&tree, b"/real"), ["one", "two"]);
    let again = tree.resolve(b"/again", Last::Follow).unwrap();
    let one = tree.resolve(b"/real/one", Last::Follow).unwrap();
    let (Some(Entry::Leaf(again)), Some(Entry::Leaf(one))) = (tree.entry(&again), tree.entry(&one))
    else {
        panic!("not both files")
    };
    assert!(std::sync::Arc::ptr_eq(again, one));
    assert!(tree.leaf(b"/loop").is_err());
    let kept = tree.resolve(b"/abs", Last::Keep).unwrap();
    assert_eq!(show_real(&kept), "/abs");
}

#[test]
fn rejects_names_that_lead_out() {
    for name in ["../evil", "a/../../evil", "/etc/passwd", "a/.."] {
        let text = error(Layer::new().file(name, 0o644, b""));
        assert!(
            text.contains("'..'") || text.contains("absolute"),
            "{name}: {text}"
        );
    }
    let text = error(Layer::new().file("a", 0o644, b"").hardlink("b", "../a"));
    assert!(text.contains("'..'"), "{text}");
    let text = error(Layer::new().hardlink("b", "missing"));
    assert!(text.contains("not there"), "{text}");
}

#[test]
fn long_names_and_attributes_come_by_pax_and_gnu() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let layer = Layer::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"70000"),
            ("mtime", b"1.5"),
        ])
        .file("short", 0o644, b"pax")
        .raw(
            "././@LongLink",
            EntryType::GNULongName,
            "",
            format!("gnu-{long}\0").as_bytes(),
        )
        .file("short", 0o644, b"gnu")
        .pax(&[
            ("SCHILY.xattr.user.a", b"1\n2"),
            ("SCHILY.xattr.trusted.b", b"x"),
        ])
        .file("attributes", 0o644, b"");
    let (tree, spool, notes) = apply(&[layer.finish()]).unwrap();
    let pax = tree.leaf(long.as_bytes()).unwrap();
    assert_eq!(pax.metadata.uid, 70_000);
    let Content::File(extent) = tree.leaf(format!("gnu-{long}").as_bytes()).unwrap().content else {
        panic!("not a file")
    };
    assert_eq!(spool.bytes(extent, 10).unwrap(), b"gnu");
    let xattrs = &tree.leaf(b"attributes").unwrap().metadata.xattrs;
    assert_eq!(xattrs.get(&b"user.a"[..]).unwrap(), b"1\n2");
    assert_eq!(xattrs.len(), 1);
    assert!(notes.as_slice()[0].contains("trusted.b"));
}

#[test]
fn devices_are_left_out_and_told() {
    let layer = Layer::new().raw("dev/null", EntryType::Char, "", b"");
    let (tree, _, notes) = apply(&[layer.finish()]).unwrap();
    assert!(tree.leaf(b"/dev/null").is_err());
    assert!(notes.as_slice()[0].contains("dev/null"));
}
