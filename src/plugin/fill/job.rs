//! The Job that fills a volume.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::source::{CREDENTIALS, Credentials, Source};

/// The directory of the volume in the container.
const DATA: &str = "/data";

/// The longest name of a Job, whose pods have it in a label.
const LONGEST: usize = 63;

/// The name of the Job that fills the volume of a PersistentVolumeClaim.
pub(super) fn name(pvc: &str) -> String {
    let mut name = format!("fill-{pvc}");
    name.truncate(LONGEST);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// Builds the Job. It has the rights of a pod without a service account's token, and runs under every Pod Security Standard.
pub(super) fn job(
    pvc: &str,
    namespace: &str,
    source: &Source,
    image: Option<&str>,
    secret: Option<&str>,
) -> anyhow::Result<Job> {
    // Programs write to the home directory, and images have none for this user.
    let mut env = vec![json!({"name": "HOME", "value": "/tmp"})];
    env.extend(source.variables.iter().map(|(name, value)| json!({"name": name, "value": value})));
    let mut mounts =
        vec![json!({"name": "data", "mountPath": DATA}), json!({"name": "tmp", "mountPath": "/tmp"})];
    let mut volumes = vec![
        json!({"name": "data", "persistentVolumeClaim": {"claimName": pvc}}),
        json!({"name": "tmp", "emptyDir": {}}),
    ];
    let mut env_from: Vec<Value> = vec![];
    match secret.map(|secret| (secret, source.credentials())) {
        Some((secret, Credentials::Variables)) => env_from.push(json!({"secretRef": {"name": secret}})),
        Some((secret, Credentials::File(key))) => {
            mounts.push(json!({"name": "credentials", "mountPath": CREDENTIALS, "readOnly": true}));
            let items = [json!({"key": key, "path": key})];
            volumes.push(json!({"name": "credentials", "secret": {"secretName": secret, "items": items}}));
        }
        None => {}
    }
    let container = json!({
        "name": "fill",
        "image": image.unwrap_or_else(|| source.image()),
        "command": ["sh", "-ec"],
        "args": [source.script(secret.is_some())],
        "workingDir": DATA,
        "env": env,
        "envFrom": (!env_from.is_empty()).then_some(env_from),
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    });
    let pod = json!({
        "automountServiceAccountToken": false,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    });
    Ok(serde_json::from_value(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name(pvc), "namespace": namespace},
        "spec": {"backoffLimit": 3, "template": {"spec": pod}},
    }))?)
}

/// True if the Job that is there fetches from the same place with the same program.
pub(super) fn is_same(there: &Job, wanted: &Job) -> bool {
    let of = |job: &Job| {
        let container = job.spec.as_ref()?.template.spec.as_ref()?.containers.first()?;
        Some((container.image.clone(), container.args.clone(), container.env.clone()))
    };
    of(there) == of(wanted)
}

/// The end of a Job.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    Complete,
    /// The message of the Job's condition.
    Failed(String),
}

/// The end of the Job, if it has come.
pub(super) fn end(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| {
        match &*condition.type_ {
            "Complete" => Some(End::Complete),
            "Failed" => Some(End::Failed(condition.message.clone().unwrap_or_default())),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(address: &str, secret: Option<&str>) -> Job {
        job("data", "team", &Source::parse(address).unwrap(), None, secret).unwrap()
    }

    #[test]
    fn e6_the_job_mounts_the_claim_and_gets_the_secret() {
        let job = json!(built("https://h/f", Some("login")));
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(
            pod["volumes"][0],
            json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})
        );
        assert_eq!(
            pod["volumes"][2]["secret"],
            json!({"secretName": "login", "items": [{"key": "headers", "path": "headers"}]})
        );
        assert_eq!(pod["automountServiceAccountToken"], false);
        let job = json!(built("s3://b/f/", Some("login")));
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "login"}}]));
        assert!(!json!(built("s3://b/f/", None)).to_string().contains("secret"));
    }

    #[test]
    fn e6_a_job_of_another_source_is_another_one() {
        let one = built("https://h/f", None);
        assert!(is_same(&one, &built("https://h/f", None)));
        assert!(!is_same(&one, &built("https://h/g", None)));
        assert!(!is_same(&one, &built("https://h/f", Some("login"))));
    }

    #[test]
    fn e6_a_name_fits_the_label_of_its_pods() {
        assert_eq!(name("data"), "fill-data");
        assert_eq!(name(&format!("{}.{}", "a".repeat(57), "b".repeat(80))).len(), 62);
    }

    #[test]
    fn e6_the_end_is_that_of_the_condition() {
        let with = |type_: &str, status: &str| {
            let conditions = [json!({"type": type_, "status": status, "message": "said"})];
            let job = json!({"metadata": {}, "status": {"conditions": conditions}});
            end(&serde_json::from_value(job).unwrap())
        };
        assert_eq!(with("Complete", "True"), Some(End::Complete));
        assert_eq!(with("Failed", "True"), Some(End::Failed("said".into())));
        assert_eq!(with("Failed", "False"), None);
        assert_eq!(with("FailureTarget", "True"), None);
    }
}
