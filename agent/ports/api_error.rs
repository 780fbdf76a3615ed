//! Why a server gave no answer that counts, whatever is spoken with it.

use super::fleet::FleetError;
use super::http::{Failure, FailureKind};
use super::registry::RegistryError;

#[derive(Debug, PartialEq)]
pub(super) enum ApiError {
    /// May pass: nobody answered, or the server speaks of itself.
    Unreachable(String),
    /// TLS: one side does not believe the other, and nothing was done. A person must look; it is tried again all the same.
    Distrusted(String),
    /// The server speaks of us, or the answer is not its own: a person must look.
    Refused(String),
}

impl ApiError {
    pub fn of_registry(self, registry: &str) -> RegistryError {
        let registry = registry.to_owned();
        match self {
            Self::Unreachable(detail) => RegistryError::Unreachable { registry, detail },
            Self::Distrusted(detail) => RegistryError::Distrusted { registry, detail },
            Self::Refused(detail) => RegistryError::Refused { registry, detail },
        }
    }
}

impl From<ApiError> for FleetError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unreachable(detail) => Self::Unreachable(detail),
            ApiError::Distrusted(detail) => Self::Distrusted(detail),
            ApiError::Refused(detail) => Self::Refused(detail),
        }
    }
}

impl Failure {
    /// `asked` is what was asked in vain.
    pub fn of_registry(self, registry: &str, asked: &str) -> RegistryError {
        let words = format!("{asked}: {}", self.words);
        ApiError::from(Self { words, ..self }).of_registry(registry)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Distrusted => Self::Distrusted(failure.words),
            _ => Self::Unreachable(failure.words),
        }
    }
}
