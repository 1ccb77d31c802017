//! The container's view of files, built in its own mount namespace.
//!
//! Everything goes through descriptors. A path of the image is resolved once,
//! beneath the container's root and without following any link, so that an image
//! cannot aim a mount or a secret at a place of its choice.

use alloc::format;

use measured_boot::manifest::{SecretFile, SecretTarget, Tmpfs};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fchown, fstat,
    makedev, mkdirat, mknodat, openat, openat2, symlinkat,
};
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use super::Plan;
use super::proc_files::{EMPTY_DIRECTORIES, EMPTY_FILES, READ_ONLY_ENTRIES};
use super::report::{Attempt, Failure};
use crate::mounts::CONTAINER;
use crate::secret::SecretBytes;
use crate::sys::mount_attributes;

const NO_DEVICES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const DATA: MountAttrFlags = NO_DEVICES.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
/// User and group that own what is init's.
const ROOT: (u32, u32) = (0, 0);

/// Character devices in `/dev`, by minor number; the major one is 1
/// (`Documentation/admin-guide/devices.txt`).
const DEVICES: &[(&str, u32)] = &[
    ("null", 3),
    ("zero", 5),
    ("full", 7),
    ("random", 8),
    ("urandom", 9),
];

/// Links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Builds the tree and moves the caller into it. The caller has a mount namespace
/// and a PID namespace of its own; nothing of init's tree is left in the former.
pub(super) fn enter(plan: &Plan<'_>) -> Result<(), Failure> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .attempt("make the mounts private")?;
    // A small tmpfs of init's own, gone once the container's root is entered.
    let scratch = tmpfs(64 << 10, 0o700, ROOT, DATA).attempt("create the scratch tmpfs")?;
    attach(&scratch, &open_source(CONTAINER)?).attempt("mount the scratch tmpfs")?;
    let root = mount_root(plan, &scratch)?;

    let proc = filesystem("proc", &[], DATA).attempt("create proc")?;
    attach_at(&root, &proc, "/proc")?;
    let dev = make_dev()?;
    attach_at(&root, &dev, "/dev")?;
    let shm = tmpfs(64 << 20, 0o1777, ROOT, DATA).attempt("create tmpfs for /dev/shm")?;
    attach_at(&root, &shm, "/dev/shm")?;
    cover(&proc, EMPTY_FILES, |_| bind_entry(&dev, "null", READ_ONLY))?;
    cover(&proc, EMPTY_DIRECTORIES, |_| {
        tmpfs(4 << 10, 0o555, ROOT, DATA | READ_ONLY)
    })?;
    cover(&proc, READ_ONLY_ENTRIES, |entry| {
        bind(entry, DATA | READ_ONLY)
    })?;

    if let Some((source, target)) = plan.boot_files {
        let files =
            bind(&open_source(source)?, NO_DEVICES | READ_ONLY).attempt("bind boot files")?;
        attach_at(&root, &files, target)?;
    }
    for (source, target) in &plan.volumes {
        let volume = bind(&open_source(source)?, DATA).attempt("bind a volume")?;
        let owner = (plan.container.uid, plan.container.gid);
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        chownat(&volume, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .attempt(format_args!("give the volume at {target} to the user"))?;
        attach_at(&root, &volume, target)?;
    }
    for Tmpfs {
        path,
        size,
        mode,
        uid,
        gid,
    } in &plan.container.tmpfs
    {
        let mount = tmpfs(*size, *mode, (*uid, *gid), DATA)
            .attempt(format_args!("create tmpfs for {path}"))?;
        attach_at(&root, &mount, path)?;
    }
    if let Some(content) = &plan.resolver {
        mount_resolver(&root, &scratch, content)?;
    }
    for secret in &plan.files {
        if let SecretTarget::File(file) = &secret.secret.target {
            write_secret(&root, file, &secret.value)?;
        }
    }

    // The tree becomes the root of the namespace, which lets go of the old one.
    rustix::process::fchdir(&root).attempt("enter the container's root")?;
    rustix::process::pivot_root(".", ".").attempt("change the root")?;
    unmount(".", UnmountFlags::DETACH).attempt("unmount the old root")?;
    rustix::process::chdir("/").attempt("enter the container's root")
}

/// Mounts the container's root in the scratch tmpfs: the image read-only, or a
/// tmpfs laid over it.
fn mount_root(plan: &Plan<'_>, scratch: &OwnedFd) -> Result<OwnedFd, Failure> {
    let image = open_source(plan.root)?;
    let root = match plan.container.writable {
        None => bind(&image, NO_DEVICES | READ_ONLY).attempt("bind the container's root")?,
        Some(size) => overlay(&image, scratch, size)?,
    };
    let target = make_directory(scratch, "root")?;
    attach(&root, &target).attempt("mount the container's root")?;
    Ok(root)
}

fn overlay(image: &OwnedFd, scratch: &OwnedFd, size: u64) -> Result<OwnedFd, Failure> {
    let changes =
        tmpfs(size, 0o700, ROOT, NO_DEVICES).attempt("create tmpfs for the writable layer")?;
    attach(&changes, &make_directory(scratch, "changes")?).attempt("mount the writable layer")?;
    let upper = make_directory(&changes, "upper")?;
    let work = make_directory(&changes, "work")?;
    // The merged root takes its owner and mode from the upper layer.
    let stat = fstat(image).attempt("stat the container's root")?;
    set_attributes(&upper, stat.st_mode, (stat.st_uid, stat.st_gid))
        .attempt("copy the attributes of the container's root")?;
    let [lower, upper, work] = [image, &upper, &work].map(descriptor_path);
    let options = [
        ("lowerdir", &*lower),
        ("upperdir", &*upper),
        ("workdir", &*work),
    ];
    filesystem("overlay", &options, NO_DEVICES).attempt("create the overlay")
}

/// A `/dev` of five devices. It cannot be `nodev`, so it is read-only instead and
/// nobody in the container can add to it.
fn make_dev() -> Result<OwnedFd, Failure> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = tmpfs(64 << 10, 0o755, ROOT, attributes).attempt("create tmpfs for /dev")?;
    for (name, minor) in DEVICES {
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        mknodat(&dev, *name, kind, mode, makedev(1, *minor))
            .attempt(format_args!("create /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        symlinkat(*target, &dev, *name).attempt(format_args!("create /dev/{name}"))?;
    }
    make_directory(&dev, "shm")?;
    mount_attributes::add(&dev, READ_ONLY).attempt("make /dev read-only")?;
    Ok(dev)
}

/// Mounts what `shown` makes of each of these entries of `/proc` over it.
fn cover(
    proc: &OwnedFd,
    entries: &[(&str, &str)],
    shown: impl Fn(&OwnedFd) -> io::Result<OwnedFd>,
) -> Result<(), Failure> {
    for (name, _) in entries {
        let target = match open(proc, name, OFlags::PATH) {
            Err(Errno::NOENT) => continue,
            other => other.attempt(format_args!("open /proc/{name}"))?,
        };
        shown(&target)
            .and_then(|cover| attach(&cover, &target))
            .attempt(format_args!("cover /proc/{name}"))?;
    }
    Ok(())
}

/// Shows `content` as `/etc/resolv.conf`, if the image has that file.
fn mount_resolver(root: &OwnedFd, scratch: &OwnedFd, content: &str) -> Result<(), Failure> {
    const PATH: &str = "/etc/resolv.conf";
    let target = match open(root, PATH, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.attempt(format_args!("open {PATH}"))?,
    };
    create_file(scratch, "resolv.conf", content.as_bytes(), 0o644, ROOT)
        .and_then(|()| bind_entry(scratch, "resolv.conf", DATA | READ_ONLY))
        .and_then(|file| attach(&file, &target))
        .attempt(format_args!("mount {PATH}"))
}

/// Opens a path of the tree at `root`. No link is followed, and nothing outside is
/// reached.
fn open(root: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens a directory of init's own tree or of a verified file system. Init's
/// working directory is its root.
fn open_source(path: &str) -> Result<OwnedFd, Failure> {
    open(CWD, path, OFlags::PATH | OFlags::DIRECTORY).attempt(format_args!("open {path}"))
}

fn attach_at(root: &OwnedFd, mount: &OwnedFd, path: &str) -> Result<(), Failure> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|target| attach(mount, &target))
        .attempt(format_args!("mount on {path}"))
}

fn write_secret(root: &OwnedFd, file: &SecretFile, value: &SecretBytes) -> Result<(), Failure> {
    let (parent, name) = file.path.rsplit_once('/').unwrap_or_default();
    let owner = (file.uid, file.gid);
    open(root, parent, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|parent| create_file(&parent, name, value.expose(), file.mode, owner))
        .attempt(format_args!("create {}", file.path))
}

/// A path that leads to the descriptor, for mount options that are strings.
fn descriptor_path(fd: &OwnedFd) -> alloc::string::String {
    use rustix::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn tmpfs(
    size: u64,
    mode: u32,
    (uid, gid): (u32, u32),
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let options = [
        ("size", &*format!("{size}")),
        ("mode", &*format!("{mode:o}")),
        ("uid", &*format!("{uid}")),
        ("gid", &*format!("{gid}")),
    ];
    filesystem("tmpfs", &options, attributes)
}

fn bind(source: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    bind_entry(source, "", attributes)
}

/// A copy of the mount at `name`, an entry init itself made in `directory`.
fn bind_entry(directory: &OwnedFd, name: &str, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(directory, name, flags)?;
    mount_attributes::add(&copy, attributes)?;
    Ok(copy)
}

fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

fn make_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mkdirat(parent, name, Mode::from_raw_mode(0o755))
        .and_then(|()| openat(parent, name, flags, Mode::empty()))
        .attempt(format_args!("create directory {name}"))
}

/// Creates a file that was not there. It is readable only once it is whole.
fn create_file(
    directory: &OwnedFd,
    name: &str,
    content: &[u8],
    mode: u32,
    owner: (u32, u32),
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    // A tmpfs takes all of it or is full.
    if io::write(&file, content)? != content.len() {
        return Err(Errno::NOSPC);
    }
    set_attributes(&file, mode, owner)
}

fn set_attributes(file: &OwnedFd, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(file, Mode::from_raw_mode(mode))
}
