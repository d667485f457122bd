//! The choice between a refused `DELETE` and a `DELETE` that waits (F5).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Treatment of a `DELETE` of an object that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The `DELETE` is refused, and changes nothing (X1, R6).
    #[default]
    Refuse,
    /// The `DELETE` is accepted. From then on nobody new gets in. Present users go on, and the object goes after the
    /// last one. Nothing is erased before that. Unlike a retirement, a `DELETE` cannot be withdrawn (X5).
    Wait,
}

impl DeletionPolicy {
    /// True for the default.
    pub fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}
