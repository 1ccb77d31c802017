//! `key-broker list`.

use anyhow::Result;

use super::say;
use crate::store::Store;

pub(super) fn list(store: &Store, json: bool) -> Result<()> {
    let (images, resources) = (store.enrolled_images()?, store.resources()?);
    let attesters = store.attesters()?;
    if json {
        let tpms: Vec<_> = attesters
            .iter()
            .map(|(ak, origin)| serde_json::json!({ "ak": ak, "origin": origin }))
            .collect();
        let all = serde_json::json!({ "images": images, "tpms": tpms, "resources": resources });
        return say(serde_json::to_string_pretty(&all)?);
    }
    let mut lines = Vec::new();
    for image in images {
        let state = if image.retired { " (retired)" } else { "" };
        lines.push(format!(
            "image    {} version {}{state}",
            image.name, image.version
        ));
    }
    for (ak, origin) in attesters {
        lines.push(format!(
            "tpm      {ak} ({})",
            format!("{origin:?}").to_lowercase()
        ));
    }
    for stored in resources {
        let tees: Vec<_> = stored.binding.tee.iter().map(|tee| tee.as_str()).collect();
        let instance = stored.binding.instance.as_ref();
        let instance = instance.map_or_else(String::new, |id| format!(", instance {id}"));
        lines.push(format!(
            "resource {}: {} bytes for {} on {}{instance}",
            stored.resource,
            stored.bytes,
            stored.binding.images.join(", "),
            tees.join(", ")
        ));
    }
    if lines.is_empty() {
        lines.push("nothing is enrolled and nothing is stored".into());
    }
    say(lines.join("\n"))
}
