//! AES-128-GCM records (RFC 8446 section 5.2) behind rustls's traits.

use alloc::boxed::Box;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Nonce as GcmNonce, Tag};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion};

const KEY_SIZE: usize = 16;
const TAG_SIZE: usize = 16;

/// AES-128-GCM.
pub(super) struct Aes128GcmAead;

impl Tls13AeadAlgorithm for Aes128GcmAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Records::new(&key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Records::new(&key, iv))
    }

    fn key_len(&self) -> usize {
        KEY_SIZE
    }

    fn extract_keys(
        &self,
        _key: AeadKey,
        _iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        // For handing the keys to the kernel, which nothing here does.
        Err(UnsupportedOperationError)
    }
}

/// One direction of a connection. Without a cipher every record fails.
struct Records {
    cipher: Option<Aes128Gcm>,
    iv: Iv,
}

impl Records {
    fn new(key: &AeadKey, iv: Iv) -> Self {
        // rustls cuts the key to `key_len`, so there always is a cipher.
        let cipher = Aes128Gcm::new_from_slice(key.as_ref()).ok();
        Self { cipher, iv }
    }

    fn nonce(&self, sequence: u64) -> GcmNonce<aes_gcm::aead::consts::U12> {
        Nonce::new(&self.iv, sequence).0.into()
    }
}

impl MessageEncrypter for Records {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let cipher = self.cipher.as_ref().ok_or(Error::EncryptError)?;
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());

        let tag = cipher
            .encrypt_inout_detached(
                &self.nonce(sequence),
                &make_tls13_aad(length),
                payload.as_mut().into(),
            )
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(&tag);

        // The legacy version of every protected record (RFC 8446 section 5.2).
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        // The content type is inside.
        length.saturating_add(1 + TAG_SIZE)
    }
}

impl MessageDecrypter for Records {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let cipher = self.cipher.as_ref().ok_or(Error::DecryptError)?;
        let payload = &mut message.payload;
        let aad = make_tls13_aad(payload.len());
        let nonce = self.nonce(sequence);
        let (text, tag) = payload
            .split_last_chunk_mut::<TAG_SIZE>()
            .ok_or(Error::DecryptError)?;
        let tag = Tag::from(*tag);
        cipher
            .decrypt_inout_detached(&nonce, &aad, (&mut *text).into(), &tag)
            .map_err(|_| Error::DecryptError)?;

        let length = text.len();
        payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}
