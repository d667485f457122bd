//! A finding of the doctor, and findings as text.

use serde::Serialize;

use crate::plugin::paint::Paint;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::plugin) enum Level {
    Good,
    Note,
    Problem,
}

/// Result of one check.
#[derive(Debug, PartialEq, Serialize)]
pub(in crate::plugin) struct Finding {
    pub level: Level,
    #[serde(rename = "what")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The findings as text. Problems come last, next to the prompt.
pub(in crate::plugin) fn text(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for level in [Level::Good, Level::Note, Level::Problem] {
        for finding in findings.iter().filter(|f| f.level == level) {
            let mark = match level {
                Level::Good => paint.good("✓"),
                Level::Note => paint.warn("!"),
                Level::Problem => paint.bad("✗"),
            };
            text.push_str(&format!("{mark} {}\n", finding.message));
            if let Some(next) = &finding.next {
                text.push_str(&format!("  {}\n", paint.dim(next)));
            }
        }
    }
    text
}
