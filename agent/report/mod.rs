#![doc = include_str!("README.md")]

pub mod document;
pub mod fleet;
pub mod html;
pub mod incident;
pub mod junit;
pub mod markdown;
pub mod review;
pub mod share;
