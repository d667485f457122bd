//! The messages of the API server about a manifest with another principal than the object's, where admission does not write
//! the principal (R5, A3).

use kube::core::Message;

/// The message for an object without the principal that it had.
pub(super) fn missing() -> Message {
    Message::Expression(words("oldSelf.principal"))
}

/// The message for an object with another principal than it had.
pub(super) fn changed() -> Message {
    Message::Expression(words("oldSelf"))
}

fn words(principal: &str) -> String {
    format!("'write principal: \"' + {principal} + '\" in the spec: who made an object never changes'")
}
