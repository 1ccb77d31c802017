//! `key-broker put`: the secret.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use crate::store::resources::MAX_VALUE;

/// Reads a secret into one buffer, which is zeroed.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let limit = MAX_VALUE.saturating_add(1);
    let mut bytes = Zeroizing::new(vec![0; limit]);
    let (mut input, object): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), "standard input".into())
    } else {
        let file = fs::File::open(path);
        let object = path.display().to_string();
        let file = file.with_context(|| format!("cannot open {object}"))?;
        (Box::new(file), object)
    };
    let mut length: usize = 0;
    loop {
        let free = bytes.get_mut(length..).unwrap_or_default();
        match input
            .read(free)
            .with_context(|| format!("cannot read {object}"))?
        {
            0 => break,
            read => length = length.saturating_add(read),
        }
    }
    if length > MAX_VALUE {
        bail!("cannot take the secret in {object}: it is larger than {MAX_VALUE} bytes");
    }
    bytes.truncate(length);
    Ok(bytes)
}
