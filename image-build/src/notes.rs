//! What the builder left out or changed, told once each at the end.

/// Remarks for whoever builds the image. None of them is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(Vec<String>);

impl Notes {
    /// Adds a remark, unless it is there already.
    pub fn add(&mut self, note: String) {
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    /// The remarks, in the order in which they came up.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}
