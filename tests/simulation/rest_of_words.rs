//! The words of `kubectl reservoir` once nothing changes any more: they are true, and lead on (T4).

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use reservoir::plan::advice;
use serde_json::Value;

use crate::asker;
use crate::kubernetes::text;
use crate::random::Random;
use crate::server::{Object, Server, Shared, is_being_deleted, lock};
use crate::steps;
use crate::world::World;

/// Of so many seeds one has a person at its end who asks about everything, and does what the answers say.
pub const WORDS: u64 = 4;
/// The number of steps that this person follows.
const FOLLOWED: usize = 4;

/// An object, and the answer of `kubectl reservoir why`.
pub struct Asked {
    /// `spv/v1`, or `vclaim/c1 -n blue`.
    pub about: String,
    pub short: &'static str,
    pub object: Arc<Object>,
    pub why: Value,
}

impl Asked {
    pub fn is_ready(&self) -> bool {
        self.why["ready"] == true
    }

    pub fn next(&self) -> Vec<String> {
        self.why["next"].as_array().into_iter().flatten().map(text).collect()
    }

    fn condition(&self, of: &str) -> Option<&Value> {
        self.object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == of)
    }

    /// True if the object's own condition Ready is true, and of its present spec.
    fn is_well(&self) -> bool {
        let ready = self.condition("Ready");
        !is_being_deleted(&self.object)
            && ready.is_some_and(|ready| {
                let seen = ready["observedGeneration"].as_i64();
                ready["status"] == "True"
                    && seen.is_none_or(|seen| Some(seen) >= self.object["metadata"]["generation"].as_i64())
            })
    }
}

/// Asks about one object.
pub async fn why(client: &Client, about: &str) -> Result<Value, String> {
    let words: Vec<&str> = ["why"].into_iter().chain(about.split(' ')).chain(["-o", "json"]).collect();
    let answer = asker::ask(client, &words).await?;
    serde_json::from_str(&answer).map_err(|error| error.to_string())
}

/// Asks about all objects. The promises that are not kept are the second part.
pub async fn ask_all(server: &Shared, client: &Client) -> (Vec<Asked>, Vec<String>) {
    let (mut asked, mut broken) = (Vec::new(), Vec::new());
    let objects = asker::objects(&lock(server));
    for (short, object) in objects {
        let about = asker::words(short, &object).join(" ");
        match why(client, &about).await {
            Ok(why) => asked.push(Asked { about, short, object, why }),
            Err(error) => broken.push(format!("T4: why {about}: {error}")),
        }
    }
    (asked, broken)
}

/// The promises that are not kept, and all answers.
pub async fn check(server: &Shared, client: &Client) -> (Vec<Asked>, Vec<String>) {
    let (asked, mut broken) = ask_all(server, client).await;
    for of in &asked {
        broken.extend(t4_a_wait_has_a_step(of));
        broken.extend(t4_what_is_well_is_said_to_be(of));
        broken.extend(t4_what_is_well_is_not_ended(of));
        broken.extend(t4_a_step_can_be_done(&lock(server), of));
    }
    broken.extend(t4_questions_end(&asked));
    broken.extend(t4_views_list_what_waits(client, &asked).await);
    (asked, broken)
}

/// A wait has a step, which is not to wait: everything is at rest.
fn t4_a_wait_has_a_step(of: &Asked) -> Option<String> {
    let next = of.next();
    let waits_on = |step: &String| step.starts_with("wait a few seconds");
    match of.is_ready() {
        true => None,
        false if next.is_empty() => Some(format!("T4: {} waits without a step: {}", of.about, of.why)),
        false => next
            .iter()
            .all(waits_on)
            .then(|| format!("T4: {} is to wait for what does not come: {}", of.about, of.why)),
    }
}

/// An object whose own condition Ready is false is never called ready.
fn t4_what_is_well_is_said_to_be(of: &Asked) -> Option<String> {
    let ready = of.condition("Ready")?;
    let is_false = ready["status"] != "True";
    (is_false && of.is_ready())
        .then(|| format!("T4: {} is {}, and said to be well: {}", of.about, ready["reason"], of.why))
}

/// No step ends what is well, or its data.
fn t4_what_is_well_is_not_ended(of: &Asked) -> Option<String> {
    if !of.is_well() {
        return None;
    }
    let own = steps::objects(
        &["kubectl".to_owned(), "delete".to_owned()]
            .into_iter()
            .chain(of.about.split(' ').map(str::to_owned))
            .collect::<Vec<_>>(),
    );
    let ends = |step: &String| {
        steps::main_part(step).starts_with("kubectl ")
            && steps::commands(steps::main_part(step))
                .iter()
                .any(|command| steps::is_end(command) && steps::objects(command) == own)
    };
    let step = of.next().into_iter().find(ends)?;
    Some(format!("T4: {} is well, and is to be ended: {step}: {}", of.about, of.why))
}

fn t4_a_step_can_be_done(server: &Server, of: &Asked) -> Option<String> {
    let faults = |step: String| {
        steps::fault(server, &step).map(|fault| format!("T4: a step for {} {fault}: {step}", of.about))
    };
    of.next().into_iter().find_map(faults)
}

/// The object that the first step asks about, if the step says nothing else.
fn asks_about(of: &Asked) -> Option<String> {
    let first = of.next().into_iter().next()?;
    let step = first.strip_prefix("have an administrator run: ").unwrap_or(&first);
    let about = step.strip_prefix("kubectl reservoir why ")?;
    (!about.contains('#')).then(|| about.to_owned())
}

/// Questions that lead to other questions end at an object with another step.
fn t4_questions_end(asked: &[Asked]) -> Vec<String> {
    let by_name: BTreeMap<&str, &Asked> = asked.iter().map(|of| (of.about.as_str(), of)).collect();
    let mut broken = Vec::new();
    for of in asked.iter().filter(|of| !of.is_ready()) {
        let (mut at, mut seen) = (of, vec![of.about.as_str()]);
        while let Some(next) = asks_about(at).and_then(|about| by_name.get(about.as_str()).copied()) {
            if seen.contains(&next.about.as_str()) {
                broken.push(format!("T4: why goes in a circle from {seen:?} to {}", next.about));
                break;
            }
            if next.is_ready() && next.next().is_empty() {
                broken.push(format!(
                    "T4: {} is to ask about {}, which is well: {}",
                    at.about, next.about, next.why
                ));
                break;
            }
            seen.push(&next.about);
            at = next;
        }
    }
    broken
}

/// The step of an object that waits, of a kind that nobody has followed yet.
pub fn pick(asked: &[Asked], followed: &[String], random: &mut Random) -> Option<(String, String)> {
    let step = |of: &Asked| Some((of.about.clone(), of.next().into_iter().next()?));
    let waiting: Vec<(String, String)> = asked.iter().filter(|of| !of.is_ready()).filter_map(step).collect();
    let new: Vec<_> = waiting
        .into_iter()
        .filter(|(_, step)| steps::can_follow(step) && !followed.contains(&kind_of(step)))
        .collect();
    random.pick(&new).cloned()
}

/// The text of a step without its names, nearly: the reason behind it, or its first words.
pub fn kind_of(step: &str) -> String {
    let reason = step.split_once("   #").map_or(step, |(_, reason)| reason);
    let verb: Vec<&str> = step.split(' ').take(3).collect();
    let words = reason.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    format!("{} {}", verb.join(" "), words.take(4).collect::<Vec<_>>().join(" "))
}

/// A person who has followed a step does not read the same step again.
pub async fn t4_a_step_leads_on(client: &Client, about: &str, step: &str) -> Option<String> {
    // The object may have ended.
    let answer = why(client, about).await.ok()?;
    let next = answer["next"].as_array().into_iter().flatten().next().map(text);
    let leads_nowhere = answer["ready"] != true && next.as_deref() == Some(step);
    leads_nowhere.then(|| format!("T4: {about} has followed `{step}`, and reads the same again: {answer}"))
}

/// The lists of what waits are complete, and have nothing else.
async fn t4_views_list_what_waits(client: &Client, asked: &[Asked]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut json = async |words: &[&str]| match asker::ask(client, words).await {
        Ok(answer) => serde_json::from_str(&answer).unwrap_or(Value::Null),
        Err(error) => {
            broken.push(format!("T4: {words:?}: {error}"));
            Value::Null
        }
    };
    let status = json(&["status", "-o", "json"]).await;
    let doctor = json(&["doctor", "-o", "json"]).await;
    for view in
        [&["status"][..], &["orphans"], &["kept"], &["recover"], &["disks", "--discover"], &["doctor"]]
    {
        if let Err(error) = asker::ask(client, view).await {
            broken.push(format!("T4: {view:?}: {error}"));
        }
    }
    let tree = asker::ask(client, &["tree"]).await.unwrap_or_default();
    let listed: Vec<String> =
        status["waiting"].as_array().into_iter().flatten().map(|of| text(&of["object"])).collect();
    let found: Vec<String> = doctor.as_array().into_iter().flatten().map(|of| text(&of["what"])).collect();
    for of in asked {
        let title = text(&of.why["object"]);
        // Kubernetes' own objects have no condition of Reservoir.
        if ["pod", "pvc"].contains(&of.short) {
            continue;
        }
        if !of.is_well() && !listed.contains(&title) {
            broken.push(format!("T4: status does not list {title}: {}", of.why));
        }
        let is_told = found.iter().any(|finding| finding.starts_with(&format!("{title} is ")));
        if of.short == "nd" && is_told == of.is_well() {
            broken.push(format!("T4: the doctor has {found:?} about {title}: {}", of.why));
        }
        let name = text(&of.object["metadata"]["name"]);
        if ["nd", "dr", "spv", "vclaim"].contains(&of.short) && !tree.contains(&name) {
            broken.push(format!("T4: the tree does not have {title}:\n{tree}"));
        }
    }
    broken
}

impl World {
    /// T4: what people are told at rest is true, and who follows it gets on.
    pub async fn ask_about_everything(&mut self) {
        if !self.plan.seed.is_multiple_of(WORDS) {
            return;
        }
        let client = asker::client(&self.server, false);
        let mut followed = Vec::new();
        while !self.is_broken() {
            let (asked, broken) = check(&self.server, &client).await;
            self.report(broken);
            if self.is_broken() || followed.len() == FOLLOWED {
                return;
            }
            let Some((about, step)) = pick(&asked, &followed, &mut self.random) else { return };
            followed.push(kind_of(&step));
            if let Err(why) = steps::follow(&self.server, &client, &step).await {
                // X9: nothing is made of a kind that is being deleted, and the command says how that goes on.
                if why.contains(&advice::see_kind_out()) {
                    return;
                }
                return self.report(vec![format!("T4: a step for {about} fails: {why}")]);
            }
            self.come_to_rest().await;
            if !self.is_broken() {
                let broken = t4_a_step_leads_on(&client, &about, &step).await;
                self.report(broken.into_iter().collect());
            }
        }
    }
}
