//! Resolves `USER[:GROUP]` with the image's own `/etc/passwd` and `/etc/group`,
//! by the rules of the container runtimes.

use anyhow::{Context as _, Result, ensure};

use crate::spool::Spool;
use crate::tree::{Content, Tree};

const MAX_FILE: u64 = 1 << 20;

/// Who the container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    /// Numeric user.
    pub(super) uid: u32,
    /// Numeric group.
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// Home directory, if the user has a line in `/etc/passwd`.
    pub(super) home: Option<String>,
}

impl User {
    /// Reads `USER[:GROUP]`, names or numbers; empty is root.
    ///
    /// # Errors
    /// A name that the image does not know.
    pub(super) fn resolve(text: &str, tree: &Tree, spool: &Spool) -> Result<Self> {
        let (user, group) = text
            .split_once(':')
            .map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let passwd = lines(tree, spool, b"/etc/passwd")?;
        let groups = lines(tree, spool, b"/etc/group")?;
        let by_number: Option<u32> = user.parse().ok();
        let line = passwd.iter().find(|line| {
            line.first().is_some_and(|name| name == user)
                || (by_number.is_some() && number(line, 2) == by_number)
        });
        let uid = match line {
            Some(line) => number(line, 2),
            None => by_number,
        };
        let uid = uid.with_context(|| {
            format!("cannot resolve user {user:?}: not in the image's /etc/passwd")
        })?;
        let mut resolved = Self {
            uid,
            gid: line.and_then(|line| number(line, 3)).unwrap_or(0),
            groups: Vec::new(),
            home: line.and_then(|line| line.get(5).cloned()),
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            let by_name = groups
                .iter()
                .find(|line| line.first().is_some_and(|name| name == group));
            resolved.gid = by_name
                .and_then(|line| number(line, 2))
                .or_else(|| group.parse().ok())
                .with_context(|| {
                    format!("cannot resolve group {group:?}: not in the image's /etc/group")
                })?;
        } else if let Some(name) = line.and_then(|line| line.first()) {
            let lists = |line: &&Vec<String>| {
                let members = line.get(3).map(String::as_str).unwrap_or_default();
                members.split(',').any(|member| member == name)
            };
            let listed = groups.iter().filter(lists);
            resolved.groups = listed.filter_map(|line| number(line, 2)).collect();
            resolved.groups.sort_unstable();
            resolved.groups.dedup();
        }
        Ok(resolved)
    }
}

/// The lines of a file of fields. An image without it has no names; that is an
/// error only where a name is looked up, and said there.
fn lines(tree: &Tree, spool: &Spool, path: &[u8]) -> Result<Vec<Vec<String>>> {
    let Ok(leaf) = tree.leaf(path) else {
        return Ok(Vec::new());
    };
    let Content::File(extent) = leaf.content else {
        return Ok(Vec::new());
    };
    let shown = crate::tree::show(path);
    ensure!(
        extent.size <= MAX_FILE,
        "cannot read {shown} of the image: over {MAX_FILE} bytes"
    );
    let bytes = spool.bytes(extent, MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    let fields = |line: &str| line.split(':').map(str::to_owned).collect();
    Ok(text.lines().map(fields).collect())
}

fn number(line: &[String], field: usize) -> Option<u32> {
    line.get(field)?.parse().ok()
}
