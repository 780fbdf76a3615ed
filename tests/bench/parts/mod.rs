//! What is measured; a table each.

pub mod idle;
pub mod memory;
pub mod process;
pub mod processes;
pub mod replay;
pub mod walk;
