//! One incident as one page that fetches nothing, with its evidence: for who was not there.

mod charts;
pub mod diagnosis;
mod material;
mod sections;

pub use material::{Evidence, Material, bundle_texts};
pub use sections::body;

use super::html;

/// The whole page. It holds no script and needs none.
pub fn page(material: &Material) -> String {
    let row = &material.shown.incident;
    html::page(&format!("{}: {}", row.service, row.incident), sections::body(material))
}

/// At most so many characters; what is cut off shows as `…`.
fn shortened(text: &str, at_most: usize) -> String {
    match text.chars().count() > at_most {
        true => text.chars().take(at_most - 1).chain(['…']).collect(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests;
