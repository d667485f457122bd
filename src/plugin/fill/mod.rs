//! The command `fill` (E6): a Job in the caller's namespace, with the caller's own rights and Secret, fetches files into a
//! volume. With `--seal` the volume is sealed when they are there.

mod job;
mod source;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use serde_json::json;

use self::job::{End, end, is_same, job};
pub(super) use self::source::Source;
use super::cli::{DryRun, Fill, Write};
use super::errors::explain_api_error;
use super::kind::{self, PVC, did_you_mean};
use super::output::print;
use super::snapshot::Snapshot;
use super::wait::Until;
use super::write::{MANAGER, api_of, change_field, dry_run_suffix, post_params};
use crate::api::AccessMode;
use crate::api::condition::{self, READY, SEALED};
use crate::plan::{advice, seal};

pub(super) async fn fill(client: &Client, args: &Fill, namespace: &str) -> anyhow::Result<()> {
    let wanted = job(&args.claim, namespace, &args.from, args.image.as_deref(), args.secret.as_deref())?;
    if matches!(args.write.dry_run, Some(DryRun::Client)) {
        return report(&wanted, "created", args);
    }
    let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
    let volume = volume_to_fill(&snapshot, &args.claim, namespace, args.seal).map_err(anyhow::Error::msg)?;
    if args.seal {
        // Else hours of fetching might end with a refusal.
        let volumes = api_of(client, &kind::VOLUME, None);
        let params = PatchParams { dry_run: true, field_manager: Some(MANAGER.into()), ..Default::default() };
        let sealed = volumes.patch(&volume, &params, &Patch::Merge(json!({"spec": {"sealed": true}}))).await;
        sealed.map_err(|error| explain_api_error(&error)).with_context(|| cannot_seal(&volume))?;
    }
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let there = jobs.get_opt(&wanted.name_any()).await.map_err(|error| explain_api_error(&error))?;
    let filled = match there {
        Some(there) => {
            again(&there, &wanted).map_err(anyhow::Error::msg)?;
            report(&there, &unchanged(&there), args)?;
            there
        }
        None => {
            let created = jobs.create(&post_params(args.write.dry_run), &wanted).await;
            let created = created.map_err(|error| explain_api_error(&error))?;
            report(&created, "created", args)?;
            created
        }
    };
    if args.write.dry_run.is_some() || !(args.write.wait || args.seal) {
        return Ok(());
    }
    until_filled(&jobs, &filled, args.write.timeout).await?;
    if !args.seal {
        return Ok(());
    }
    let write = Write { output: args.write.output, wait: true, timeout: args.write.timeout, dry_run: None };
    let result = ("is being sealed", Some(Until::Condition(SEALED)));
    change_field(client, &kind::VOLUME, &volume, ("sealed", json!(true)), result, &write)
        .await
        .with_context(|| cannot_seal(&volume))
}

fn cannot_seal(volume: &str) -> String {
    format!("volume {volume} cannot be sealed")
}

/// The name of the volume of a PersistentVolumeClaim that can be filled; empty if it is not known and nothing is to be sealed.
fn volume_to_fill(snapshot: &Snapshot, name: &str, namespace: &str, seals: bool) -> Result<String, String> {
    let pvc = snapshot.pvc(Some(namespace), name);
    let claim = snapshot.claims.iter().find(|claim| claim.name_any() == name);
    let volume_of = |name: &str| snapshot.volumes.iter().find(|volume| volume.name_any() == name);
    let Some(pvc) = pvc else {
        if snapshot.require(&[&PVC]).is_err() {
            return match seals {
                true => Err(
                    "with --seal the command reads PersistentVolumeClaims, which your rights do not allow"
                        .to_owned(),
                ),
                false => Ok(String::new()),
            };
        }
        let there: Vec<String> = snapshot.pvcs.iter().map(ResourceExt::name_any).collect();
        let next = match (claim, volume_of(name).filter(|volume| !volume.is_ending())) {
            (Some(_), _) => format!(": {}", advice::ask_why(kind::CLAIM.argument(name, Some(namespace)))),
            (None, Some(volume)) => {
                format!("; first {}", advice::claim_volume_of_name(name, &volume.spec.role, namespace))
            }
            (None, None) => match did_you_mean(name, there.iter().map(String::as_str)) {
                none if none.is_empty() => {
                    format!("; kubectl get pvc -n {namespace} lists those that there are")
                }
                near => near,
            },
        };
        return Err(format!("namespace {namespace} has no PersistentVolumeClaim {name}{next}"));
    };
    let why = || advice::ask_why(PVC.argument(name, Some(namespace)));
    if pvc.metadata.deletion_timestamp.is_some() {
        return Err(format!("PersistentVolumeClaim {name} is being deleted: {}", why()));
    }
    if pvc.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
        return Err(format!(
            "PersistentVolumeClaim {name} is a raw device (volumeMode: Block), and files need a file system: fill a volume with one"
        ));
    }
    if claim.is_some_and(|claim| claim.spec.mode == AccessMode::ReadOnly) {
        return Err(format!(
            "VolumeClaim {name} is ReadOnly, so nothing can be written through it: fill the volume through another claim, with \
             mode ReadWrite"
        ));
    }
    let bound = claim.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
    let ready = claim.and_then(|claim| condition::get(&claim.status.as_ref()?.conditions, READY));
    // A caller without the right to see the volume sees the condition of the claim.
    let closed = bound.and_then(|bound| match volume_of(&bound.name) {
        Some(volume) => seal::closed(volume),
        None => ready.filter(|ready| seal::says_closed(&ready.message)).map(|_| "sealed, or being sealed"),
    });
    if let Some((bound, word)) = bound.zip(closed) {
        return Err(format!(
            "volume {} is {word}, so it takes no more files: fill another volume",
            bound.name
        ));
    }
    match bound {
        Some(bound) => Ok(bound.name.clone()),
        None if !seals => Ok(String::new()),
        None if claim.is_some() => Err(format!("VolumeClaim {name} is not bound yet: {}", why())),
        None => Err(format!(
            "PersistentVolumeClaim {name} has no VolumeClaim, and --seal is for volumes of VolumeClaims: leave --seal out"
        )),
    }
}

/// Refuses to go on with a Job that does other work. One that does the same was started by the same command before.
fn again(there: &Job, wanted: &Job) -> Result<(), String> {
    let (name, namespace) = (there.name_any(), there.namespace().unwrap_or_default());
    let delete = advice::delete(format!("job/{name} -n {namespace}"));
    if there.metadata.deletion_timestamp.is_some() {
        return Err(format!("Job {name} is being deleted: try again when it is gone"));
    }
    match is_same(there, wanted) {
        true => match end(there) {
            Some(End::Failed(why)) => Err(has_failed(there, &why)),
            _ => Ok(()),
        },
        false => Err(format!(
            "Job {name} is there, with another source, image or Secret: {delete}   # then fill again"
        )),
    }
}

/// The result for a Job that is there. One that has fetched the files fetches no newer ones.
fn unchanged(there: &Job) -> String {
    let object = format!("job/{} -n {}", there.name_any(), there.namespace().unwrap_or_default());
    match end(there) {
        Some(End::Complete) => {
            format!(
                "unchanged: it has fetched the files; to fetch them again, first {}",
                advice::delete(object)
            )
        }
        _ => "unchanged".to_owned(),
    }
}

/// The message about a Job that tries no more.
fn has_failed(job: &Job, why: &str) -> String {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let delete = advice::delete(format!("job/{name} -n {namespace}"));
    format!(
        "Job {name} has failed ({why}): kubectl logs job/{name} -n {namespace}; then {delete}   # and fill again"
    )
}

fn report(job: &Job, result: &str, args: &Fill) -> anyhow::Result<()> {
    let mut job = job.clone();
    job.metadata.managed_fields = None;
    print(&args.write.output, &job, || {
        format!("job.batch/{} {result}{}\n", job.name_any(), dry_run_suffix(args.write.dry_run))
    })
}

/// Waits for the end of the Job, and prints its progress on standard error.
async fn until_filled(jobs: &Api<Job>, job: &Job, timeout: Duration) -> anyhow::Result<()> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let (started, mut last) = (Instant::now(), String::new());
    let watched = watch_object(jobs.clone(), &name).default_backoff();
    futures::pin_mut!(watched);
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let Ok(seen) = tokio::time::timeout(left, watched.next()).await else {
            bail!(
                "Job {name} is not done after {} s, and goes on; the same command waits for it again: {}",
                timeout.as_secs(),
                advice::ask_why(format!("job/{name} -n {namespace}"))
            );
        };
        match seen.context("the watch ended")? {
            // kube-rs restarts a failed watch by itself.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(Some(seen)) if seen.uid() == job.uid() => {
                let status = seen.status.clone().unwrap_or_default();
                let (ready, failed) = (status.ready.unwrap_or(0), status.failed.unwrap_or(0));
                let text = match end(&seen) {
                    Some(End::Complete) => "filled".to_owned(),
                    Some(End::Failed(why)) => bail!(has_failed(job, &why)),
                    None if ready > 0 => format!("Filling: {failed} tries have failed before"),
                    None => format!("Waiting for the pod: {failed} tries have failed before"),
                };
                if text != last {
                    eprintln!("{:>4} s  {text}", started.elapsed().as_secs());
                    last.clone_from(&text);
                }
                if end(&seen).is_some() {
                    return Ok(());
                }
            }
            Ok(_) => bail!("Job {name} was deleted during the wait, and nothing was sealed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::api::condition::Verdict;
    use crate::plugin::cli::{Cli, Command};

    fn snapshot(pvc: serde_json::Value, claim: serde_json::Value, sealed: bool) -> Snapshot {
        let some = |object: serde_json::Value| if object.is_null() { json!([]) } else { json!([object]) };
        let volume =
            json!({"metadata": {"name": "v"}, "spec": {"role": "eng", "size": "1Gi", "sealed": sealed}});
        Snapshot {
            pvcs: serde_json::from_value(some(pvc)).unwrap(),
            claims: serde_json::from_value(some(claim)).unwrap(),
            volumes: serde_json::from_value(some(volume)).unwrap(),
            ..Default::default()
        }
    }

    fn sealed() -> crate::api::SharedPersistentVolume {
        snapshot(json!(null), json!(null), true).volumes.remove(0)
    }

    fn pvc() -> serde_json::Value {
        json!({"metadata": {"name": "data", "namespace": "team"}})
    }

    fn claim(mode: &str, volume: Option<&str>) -> serde_json::Value {
        json!({"metadata": {"name": "data", "namespace": "team"}, "spec": {"role": "eng", "volume": "v", "mode": mode},
            "status": {"phase": "Bound", "volume": volume.map(|name| json!({"name": name, "uid": "1"}))}})
    }

    /// The Job of a command line.
    fn job_of(line: &str) -> Job {
        let words = ["kubectl-reservoir", "fill", "--from"].into_iter().chain(line.split(' '));
        let Command::Fill(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        assert_eq!(args.write.timeout, Duration::from_secs(24 * 3600));
        job(&args.claim, "team-a", &args.from, args.image.as_deref(), args.secret.as_deref()).unwrap()
    }

    /// docs/how-to/fill-a-volume.md
    #[test]
    fn e6_the_example_is_the_job_of_the_command() {
        let job = job_of("http://files/bin/go datasets --image localhost/reservoir-test:dev");
        let example = include_str!("../../../examples/28-fill.yaml");
        let example: serde_json::Value = serde_yaml::from_str(example).unwrap();
        assert_eq!(example, json!(job), "{}", serde_yaml::to_string(&job).unwrap());
    }

    #[test]
    fn e6_the_volume_of_a_claim_is_filled() {
        let of = |snapshot: &Snapshot, seals| volume_to_fill(snapshot, "data", "team", seals);
        let bound = snapshot(pvc(), claim("ReadWrite", Some("v")), false);
        assert_eq!(of(&bound, true), Ok("v".into()));
        let waits = snapshot(pvc(), claim("ReadWrite", None), false);
        assert_eq!(of(&waits, false), Ok(String::new()), "its pod waits, too");
        assert!(
            of(&waits, true).unwrap_err().contains("not bound yet: kubectl reservoir why pvc/data -n team")
        );
        let of_class = snapshot(pvc(), json!(null), false);
        assert_eq!(of(&of_class, false), Ok(String::new()));
        assert!(of(&of_class, true).unwrap_err().contains("leave --seal out"));
    }

    #[test]
    fn e6_a_volume_that_takes_no_files_is_refused_at_once() {
        let of = |pvc, claim, sealed| {
            volume_to_fill(&snapshot(pvc, claim, sealed), "data", "team", false).unwrap_err()
        };
        assert!(of(pvc(), claim("ReadOnly", Some("v")), false).contains("is ReadOnly"));
        assert!(
            of(pvc(), claim("ReadWrite", Some("v")), true)
                .contains("volume v is being sealed, so it takes no")
        );
        // A tenant sees no volume.
        let mut blind = snapshot(pvc(), claim("ReadWrite", Some("v")), true);
        blind.volumes.clear();
        let of_claim = &mut blind.claims[0].status.as_mut().unwrap().conditions;
        let said = crate::plan::seal::bound(&sealed(), AccessMode::ReadWrite).unwrap();
        condition::set(of_claim, READY, Verdict::yes("Bound", said), None, jiff::Timestamp::UNIX_EPOCH);
        let refused = volume_to_fill(&blind, "data", "team", false).unwrap_err();
        assert!(refused.starts_with("volume v is sealed, or being sealed"), "{refused}");
        let mut block = pvc();
        block["spec"] = json!({"volumeMode": "Block"});
        assert!(of(block, json!(null), false).contains("is a raw device"));
        let mut ending = pvc();
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(of(ending, json!(null), false).contains("is being deleted"));
    }

    #[test]
    fn e6_a_missing_claim_leads_to_the_volume_or_to_a_similar_name() {
        let of = |snapshot: &Snapshot, name| volume_to_fill(snapshot, name, "team", false).unwrap_err();
        let none = snapshot(json!(null), json!(null), false);
        assert!(of(&none, "v").contains("; first kubectl reservoir claim v --role eng --volume v -n team"));
        let mut ending = snapshot(json!(null), json!(null), false);
        ending.volumes[0].spec.retire = true;
        assert!(!of(&ending, "v").contains(" claim "), "{}", of(&ending, "v"));
        let other = snapshot(pvc(), json!(null), false);
        assert!(of(&other, "dta").ends_with("did you mean data?"));
        let waits = snapshot(json!(null), claim("ReadWrite", None), false);
        assert!(of(&waits, "data").ends_with(": kubectl reservoir why vclaim/data -n team"));
    }

    #[test]
    fn e6_a_second_run_goes_on_with_its_own_job_alone() {
        let there = job_of("https://h/f data");
        assert_eq!(again(&there, &job_of("https://h/f data")), Ok(()));
        assert_eq!(unchanged(&there), "unchanged");
        let mut done = there.clone();
        done.status =
            serde_json::from_value(json!({"conditions": [{"type": "Complete", "status": "True"}]})).unwrap();
        assert!(
            unchanged(&done).ends_with("first kubectl delete job/fill-data -n team-a"),
            "{}",
            unchanged(&done)
        );
        let mut over = there.clone();
        let conditions =
            json!({"conditions": [{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}]});
        over.status = serde_json::from_value(conditions).unwrap();
        let refused = again(&over, &job_of("https://h/f data")).unwrap_err();
        assert!(
            refused
                .starts_with("Job fill-data has failed (BackoffLimitExceeded): kubectl logs job/fill-data"),
            "{refused}"
        );
        let refused = again(&there, &job_of("https://h/g data")).unwrap_err();
        assert!(refused.contains("kubectl delete job/fill-data -n team-a"), "{refused}");
    }
}
