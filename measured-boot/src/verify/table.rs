//! Checks as they are made, so that the reader sees all of them.

use core::fmt::Display;

use super::Check;

/// All checks of one verification, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The rows.
    pub checks: Vec<Check>,
}

/// The check that ended a verification: nothing after it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot verify evidence: {name}: got {got}, expected {expected}")]
pub struct Refused {
    /// Which check; in [`Table::checks`] the last row has the same name.
    pub name: String,
    /// What the evidence has.
    pub got: String,
    /// What would have been right.
    pub expected: String,
}

impl Table {
    /// Whether there are checks, and all of them hold.
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// The first check that does not hold.
    pub(in crate::verify) fn first_failure(&self) -> Option<Refused> {
        let check = self.checks.iter().find(|check| !check.ok)?;
        Some(Refused {
            name: check.name.clone(),
            got: check.got.clone(),
            expected: check.expected.clone(),
        })
    }

    /// A check without which nothing further has a meaning.
    pub(in crate::verify) fn require(
        &mut self,
        name: &str,
        got: impl Display,
        expected: impl Display,
        ok: bool,
    ) -> Result<(), Refused> {
        self.compare(name, &got, &expected, ok);
        if ok {
            return Ok(());
        }
        Err(Refused {
            name: name.to_owned(),
            got: got.to_string(),
            expected: expected.to_string(),
        })
    }

    /// A check among others: all of them are told.
    pub(in crate::verify) fn compare(
        &mut self,
        name: &str,
        got: impl Display,
        expected: impl Display,
        ok: bool,
    ) {
        self.checks.push(Check {
            name: name.to_owned(),
            got: got.to_string(),
            expected: expected.to_string(),
            ok,
        });
    }

    /// The check of something that could not even be read.
    pub(in crate::verify) fn refuse<T>(
        &mut self,
        name: &str,
        got: impl Display,
        expected: impl Display,
    ) -> Result<T, Refused> {
        self.compare(name, &got, &expected, false);
        Err(Refused {
            name: name.to_owned(),
            got: got.to_string(),
            expected: expected.to_string(),
        })
    }
}
