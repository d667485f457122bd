//! The API server's work, from its metrics.

use std::collections::BTreeMap;

use kube::Client;

use super::row;

const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];

/// The API server's work for everybody so far, without leases.
#[derive(Default)]
pub struct Done {
    /// Requests other than watches, by verb, resource and subresource.
    requests: BTreeMap<[String; 3], f64>,
    /// Seconds of CPU.
    cpu: f64,
}

impl Done {
    pub async fn now(client: &Client) -> Self {
        let request = http::Request::get("/metrics").body(vec![]).unwrap();
        let text = client.request_text(request).await.unwrap();
        let mut done = Self::default();
        for (name, number) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
            let label = |key: &str| {
                let (_, rest) = name.split_once(&format!("{key}=\""))?;
                rest.split('"').next()
            };
            let number: f64 = number.parse().unwrap_or_default();
            if name == "process_cpu_seconds_total" {
                done.cpu = number;
            } else if name.starts_with("apiserver_request_total{") {
                let request =
                    ["verb", "resource", "subresource"].map(|key| label(key).unwrap_or_default().to_owned());
                if !["WATCH", "CONNECT"].contains(&&*request[0]) && request[1] != "leases" {
                    *done.requests.entry(request).or_default() += number;
                }
            }
        }
        done
    }

    /// The work since then.
    pub fn since(mut self, before: &Self) -> Self {
        for (what, number) in &mut self.requests {
            *number -= before.requests.get(what).copied().unwrap_or_default();
        }
        self.requests.retain(|_, number| *number > 0.0);
        self.cpu -= before.cpu;
        self
    }

    fn count(&self, counts: impl Fn(&str, &str) -> bool) -> u64 {
        let counted = self.requests.iter().filter(|([verb, resource, _], _)| counts(verb, resource));
        counted.map(|(_, number)| number).sum::<f64>() as u64
    }

    /// Writes without events.
    pub fn writes(&self) -> u64 {
        self.count(|verb, resource| WRITES.contains(&verb) && resource != "events")
    }

    /// Prints the work for each of so many objects.
    pub fn print(&self, of: usize) {
        let each = |number: u64| format!("{:.2}", number as f64 / of as f64);
        row("  writes of everybody for each", each(self.writes()), "");
        let events = self.count(|verb, resource| WRITES.contains(&verb) && resource == "events");
        row("  events for each", each(events), "");
        row("  reads of everybody for each", each(self.count(|verb, _| !WRITES.contains(&verb))), "");
        row("  CPU of the API server for each, ms", format!("{:.1}", self.cpu * 1000.0 / of as f64), "");
        if std::env::var_os("BENCH_WRITES").is_some() {
            for (what, number) in &self.requests {
                row(&format!("    {}", what.join(" ")), each(*number as u64), "");
            }
        }
    }
}
