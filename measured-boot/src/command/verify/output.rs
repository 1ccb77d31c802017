//! The table that people and machines read.

use anyhow::Result;
use measured_boot::verify::Table;
use serde_json::json;

use super::Request;

pub(super) fn print(evidence: &str, request: &Request<'_>, table: &Table) -> Result<()> {
    let image = &request.values.image;
    if request.arguments.json {
        let checks = table.checks.iter();
        let checks: Vec<_> = checks
            .map(|check| {
                json!({
                    "check": check.name,
                    "got": check.got,
                    "expected": check.expected,
                    "ok": check.ok,
                })
            })
            .collect();
        let verdict = json!({
            "evidence": evidence,
            "image": { "name": image.name.as_str(), "version": image.version },
            "time": request.now,
            "ok": table.holds(),
            "checks": checks,
        });
        say!("{}", serde_json::to_string_pretty(&verdict)?);
        return Ok(());
    }
    for check in &table.checks {
        let word = if check.ok { "ok  " } else { "FAIL" };
        say!("{word} {}", check.name);
        say!("       got      {}", check.got);
        say!("       expected {}", check.expected);
    }
    let failed = table.checks.iter().filter(|check| !check.ok).count();
    let name = image.name.as_str();
    let version = image.version;
    if table.holds() {
        say!(
            "{evidence} of {name} version {version}: all {} checks hold",
            table.checks.len()
        );
    } else {
        say!(
            "{evidence} of {name} version {version}: REFUSED, {failed} of {} checks fail",
            table.checks.len()
        );
    }
    Ok(())
}
