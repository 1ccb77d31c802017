//! Enrolled images: reference values by name and version, and the minimum.

use measured_boot::manifest::Image;
use measured_boot::reference_values::ReferenceValues;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, Store};

const IMAGES: &str = "images";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Minimum {
    minimum: u32,
}

/// One enrolled image, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnrolledImage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether it is below the minimum.
    pub retired: bool,
}

impl Store {
    /// Enrols an image by its `reference-values.json`.
    ///
    /// # Errors
    /// Broken reference values, none that evidence could be compared with, a
    /// retired version, or other values for the same version without `replace`.
    pub fn enroll(&self, json: &[u8], replace: bool) -> Result<Image, Error> {
        let _lock = self.lock()?;
        let failed = |object: &str, cause: &dyn ToString| {
            Error::refused("enroll", object, cause.to_string())
        };
        let values = ReferenceValues::parse(json).map_err(|e| failed("image", &e))?;
        let image = values.image.clone();
        let object = format!("{} version {}", image.name, image.version);
        check_name(&image.name)?;
        if values.tpm.is_none() && values.snp.is_none() && values.tdx.is_none() {
            let cause = "its reference values have none of tpm, snp and tdx";
            return Err(failed(&object, &cause));
        }
        let minimum = self.minimum_version(&image.name)?;
        if image.version < minimum {
            let cause = format!("retired: the minimum is version {minimum}");
            return Err(failed(&object, &cause));
        }
        match self.reference_values(&image)? {
            Some(enrolled) if enrolled == values => return Ok(image),
            Some(_) if !replace => {
                let cause = "enrolled with other reference values; use another version, or \
                             --replace";
                return Err(failed(&object, &cause));
            }
            Some(_) | None => {}
        }
        let canonical = values.to_json().map_err(|e| failed(&object, &e))?;
        self.write(&file(&image), &canonical)?;
        Ok(image)
    }

    /// Raises the minimum version of `name`, from now on.
    ///
    /// # Errors
    /// No image of that name, or a minimum below the present one.
    pub fn retire(&self, name: &str, minimum: u32) -> Result<(), Error> {
        let _lock = self.lock()?;
        check_name(name)?;
        if self.names(&format!("{IMAGES}/{name}"))?.is_empty() {
            let cause = "no image of this name is enrolled";
            return Err(Error::refused("retire", name, cause));
        }
        let present = self.minimum_version(name)?;
        if minimum < present {
            let cause =
                format!("got minimum {minimum}, expected at least the present one, {present}");
            return Err(Error::refused("retire", name, cause));
        }
        self.write_json(
            &format!("{IMAGES}/{name}/minimum.json"),
            &Minimum { minimum },
        )
    }

    /// The lowest version of `name` that gets anything; 0 until one is retired.
    pub(crate) fn minimum_version(&self, name: &str) -> Result<u32, Error> {
        let minimum: Option<Minimum> = self.read_json(&format!("{IMAGES}/{name}/minimum.json"))?;
        Ok(minimum.map_or(0, |m| m.minimum))
    }

    /// All enrolled images, retired ones too, with newer versions first.
    pub(crate) fn images(&self) -> Result<Vec<Image>, Error> {
        let mut images = Vec::new();
        for name in self.names(IMAGES)? {
            for file in self.names(&format!("{IMAGES}/{name}"))? {
                let version = file.strip_suffix(".json").and_then(|v| v.parse().ok());
                if let Some(version) = version {
                    let name = name.clone();
                    images.push(Image { name, version });
                }
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name).then(b.version.cmp(&a.version)));
        Ok(images)
    }

    /// As [`Self::images`], for lists.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn enrolled_images(&self) -> Result<Vec<EnrolledImage>, Error> {
        let with_minimum = |image: Image| {
            let retired = image.version < self.minimum_version(&image.name)?;
            Ok(EnrolledImage {
                name: image.name,
                version: image.version,
                retired,
            })
        };
        self.images()?.into_iter().map(with_minimum).collect()
    }

    /// The reference values enrolled for `image`.
    pub(crate) fn reference_values(&self, image: &Image) -> Result<Option<ReferenceValues>, Error> {
        let name = file(image);
        let Some(json) = self.read(&name)? else {
            return Ok(None);
        };
        ReferenceValues::parse(&json)
            .map(Some)
            .map_err(|e| Error::invalid("read", &self.path(&name), e))
    }
}

/// Tells reference values from any others.
pub(crate) fn digest(values: &ReferenceValues) -> Result<[u8; 32], String> {
    let json = values.to_json().map_err(|e| e.to_string())?;
    Ok(Sha256::digest(json).into())
}

fn file(image: &Image) -> String {
    format!("{IMAGES}/{}/{}.json", image.name, image.version)
}

/// The manifest's rule for names, and no leading dot: the name is a directory.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let ok = (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    if ok {
        return Ok(());
    }
    let cause = "expected an image name: 1 to 64 of a-z, 0-9, '-', '_', '.', no leading '.'";
    Err(Error::refused("use", crate::log::bounded(name), cause))
}
