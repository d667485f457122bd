//! The commands `grant`, `revoke` and `who-can`: RBAC verbs on roles (A1).

mod commands;
mod grant;
mod holders;
mod subject;
mod verbs;

pub(super) use commands::{grant, revoke, who_can};
pub(super) use subject::receiver;
pub(super) use verbs::{VERBS, parse_verb};
