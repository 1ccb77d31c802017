//! Which enrolled image evidence is of.

use measured_boot::manifest::Image;
use measured_boot::reference_values::ReferenceValues;

use super::Failure;
use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::store::Store;
use crate::store::images::digest;

/// The image evidence is of, and [`digest`] of the values it was compared with.
pub(super) struct Known {
    pub(super) image: Image,
    pub(super) values: [u8; 32],
}

/// No image matches; the one that does in most checks.
pub(super) struct Unknown {
    pub(super) image: Option<Image>,
    pub(super) checks: Vec<Check>,
}

/// Finds the enrolled image with which all checks hold, and refuses one below
/// the minimum version. `compare` gives the checks with an image's values, or
/// `None` where they have none of this kind of TEE.
pub(super) fn identify(
    store: &Store,
    compare: impl Fn(&ReferenceValues) -> Option<Vec<Check>>,
    decision: &mut Decision,
) -> Result<Result<Known, Unknown>, Failure> {
    let mut retired = None;
    let mut closest: Option<(Image, Vec<Check>)> = None;
    for image in store.images()? {
        let Some(values) = store.reference_values(&image)? else {
            continue;
        };
        let Some(checks) = compare(&values) else {
            continue;
        };
        let wrong = wrong(&checks);
        if wrong == 0 {
            let minimum = store.minimum_version(&image.name)?;
            if image.version >= minimum {
                decision.checks.extend(checks);
                decision.image = Some(image.name.clone());
                decision.version = Some(image.version);
                let values = digest(&values).map_err(|e| Failure::new(Refusal::Internal, e))?;
                return Ok(Ok(Known { image, values }));
            }
            retired.get_or_insert((image, minimum, checks));
        } else if closest
            .as_ref()
            .is_none_or(|(_, best)| wrong < self::wrong(best))
        {
            closest = Some((image, checks));
        }
    }
    if let Some((image, minimum, checks)) = retired {
        decision.checks.extend(checks);
        decision.image = Some(image.name);
        decision.version = Some(image.version);
        let version = image.version.to_string();
        let check = Check::new("version", false, version, format!("at least {minimum}"));
        decision.checks.push(check);
        return Err(Refusal::ImageRetired.into());
    }
    let (image, checks) = closest.unzip();
    let checks = checks.unwrap_or_default();
    Ok(Err(Unknown { image, checks }))
}

impl Unknown {
    /// The refusal, with the names of what differs.
    pub(super) fn refuse(
        self,
        refusal: Refusal,
        names: &[String],
        decision: &mut Decision,
    ) -> Failure {
        let differing = names.join(", ");
        let detail = match &self.image {
            Some(image) => format!(
                "closest is {} version {}; not as expected: {differing}",
                image.name, image.version
            ),
            None if differing.is_empty() => "no image is enrolled for this kind of TEE".to_owned(),
            None => {
                format!("no image is enrolled for this kind of TEE; not as expected: {differing}")
            }
        };
        decision.checks.extend(self.checks);
        Failure::new(refusal, detail)
    }
}

fn wrong(checks: &[Check]) -> usize {
    checks.iter().filter(|check| !check.ok).count()
}
