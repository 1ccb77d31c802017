//! Naming the contents of a boot filesystem, when it is built.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::keys::{BootKey, ContentId};

impl BootKey {
    /// Starts the HMAC that becomes the [`ContentId`]: feed it the EROFS bytes.
    pub fn content_id(&self) -> ContentIdBuilder {
        let key: Zeroizing<[u8; 64]> = self.derive("content-id", &[]);
        ContentIdBuilder(<Hmac<Sha256> as KeyInit>::new(&(*key).into()))
    }
}

/// An HMAC over the plain bytes of a boot filesystem, in progress.
pub struct ContentIdBuilder(Hmac<Sha256>);

impl fmt::Debug for ContentIdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentIdBuilder")
    }
}

impl ContentIdBuilder {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The content id of all bytes so far.
    pub fn finish(self) -> ContentId {
        ContentId(self.0.finalize().into_bytes().into())
    }
}
