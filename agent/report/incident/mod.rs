//! One incident as one page that fetches nothing, with its evidence: for who was not there.

mod charts;
pub mod diagnosis;
mod material;
mod sections;

pub use material::{Evidence, Material};

use super::html;

/// The whole page. It holds no script and needs none.
pub fn page(material: &Material) -> String {
    let row = &material.shown.incident;
    html::page(&format!("{}: {}", row.service, row.incident), sections::body(material))
}

#[cfg(test)]
mod tests;
