//! Each step that `kubectl reservoir` advises is run as printed, and leads to Ready or does what it says (T4).

use std::collections::BTreeSet;

use reservoir::api::NodeDisk;
use reservoir::plan::advice::ALL;
use serde_json::Value;

use crate::plugin::{Shell, does, parsed, run};
use crate::support::{Agent, Cluster, until, until_reason};

/// The outcome of following the advice.
enum Outcome {
    /// The object is Ready, and has nothing to complain of.
    Ready,
    /// That other object is Ready.
    ReadyOf(&'static str),
    /// The object is gone.
    Gone,
    /// Nothing by itself: the command shows what to decide on, and succeeds.
    Shows,
}
use Outcome::{Gone, Ready, ReadyOf, Shows};

/// Steps that show what to decide on. Each is run, with real names filled in.
const LOOKS: &[&str] = &[
    "empty_gone_disk",
    "make_free_space",
    "free_limit",
    "use_fewer_reservations",
    "use_less_of_role",
    "use_fewer_volumes",
    "ask_why",
    "have_administrator_ask",
    "find_subscription",
    "claim_other_volume",
    "ask_about_claims",
    "use_fewer_claims",
    "end_pods",
    "end_process",
    "claims_unseen",
    "volumes_unseen",
    "read_unknown_events",
    "await_end",
    "see_classes",
    "recover_listed",
    "restore_template",
    "read_events",
    "gather_volumes",
];

/// Steps that are not run here, and who acts, or where they are run.
const ELSEWHERE: &[(&str, &str)] = &[
    ("nothing_to_do", "nobody: the object is at rest"),
    (
        "end_finished_pod",
        "Kubernetes deletes the PersistentVolumeClaim with its pod, and leaving.rs that of a class",
    ),
    ("leave_volume_to_class", "nobody: the object is at rest"),
    ("look_again_or_ask", "an administrator, who reads another step; as have_administrator_ask"),
    ("leave_copy", "nobody: the object is at rest (copies.rs)"),
    ("look_again", "nobody: it passes, which each row of a volume sees"),
    ("check_controller", "an administrator: another version of the controller runs"),
    ("have_controller_checked", "an administrator, as check_controller"),
    ("correct_field", "a person edits; the API server refuses such a spec of today before (bad_input)"),
    ("read_agent_log", "a look at the log of a pod, which the api tier does not have (e2e)"),
    ("uncordon_for_new", "cordon.rs runs it"),
    ("find_agent", "an administrator; kubectl reservoir doctor fails where there is no agent (plugin.rs)"),
    ("see_guarantees", "a look at VolumeRoles, for who may not see them; the command of lower_guarantee"),
    ("end_guarantee", "the command of fit_guarantee"),
    ("revoke", "an administrator; rights.rs revokes"),
    ("reserve_for_data", "the command of reserve_for_role; kept.rs recovers data"),
    ("reserve_for_pod", "the command of reserve_for_role; a scheduler places the pod"),
    ("end_pods_of_gone", "a person ends pods, before the disk of volumes.rs is emptied"),
    ("see_no_disk", "an administrator, as find_agent (plugin.rs)"),
    ("remove_foreign_files", "a person on the node; disks.rs removes them"),
    ("have_run", "an administrator: the command of another step"),
    ("have_events_looked_at", "an administrator, who reads another step; as have_administrator_ask"),
    ("have_startup_taint_removed", "an administrator changes the chart's values"),
    ("retire_lost", "a person on the node; the command of keep_volume, taken back"),
    ("save_lost_data", "a person copies; the api tier has no process in a pod (e2e)"),
    ("have_pod_fitted", "an administrator, who reads another step; as have_administrator_ask"),
    ("make_pod_again", "the command of delete_finished_pod"),
    ("make_job_again", "a person makes the Job anew; the api tier has no controller of Jobs"),
    ("change_job_template", "a person edits a CronJob; the api tier has no controller of these"),
    ("change_set_template", "a person edits a StatefulSet; the command of delete_finished_pod"),
    ("retire_after_claims", "the command of retire_after_use"),
    ("claim_again_unsubscribed", "the command of claim_again, in a namespace that the person knows"),
    (
        "change_pod_template",
        "a person edits what makes the pod; the api tier has no controller of Deployments",
    ),
    ("unclaim_leaving_copy", "the command of unclaim"),
    ("unclaim_with_original", "the command of unclaim"),
    (
        "leave_parentless",
        "a look at a reservation whose parent somebody removed by force; then the command of delete",
    ),
    ("leave_apart", "a person makes the pod anew, as tolerate_taint"),
    ("make_pod_for_writing", "the command of delete_finished_pod; sealed.rs takes a request back"),
    ("never_shrinks", "nobody: Kubernetes makes no PersistentVolumeClaim smaller"),
    ("leave_spread", "a person makes the pod anew, as tolerate_taint"),
    ("lower_guarantee_to", "an administrator; the command of fit_guarantee"),
    ("raise_limit_to", "an administrator; the command of fit_guarantee, for the limit"),
    ("claim_by_name", "the commands of delete_pvc and claim"),
    ("lower_guarantee_within", "a look at a VolumeRole, whose own step is fit_guarantee"),
    ("tolerate_taint", "a person makes the pod anew; the command of delete_finished_pod"),
    ("label_topology", "an administrator; the kubelet, which the api tier does not have"),
    ("take_startup_taint", "an administrator; nodes.rs has the controller take it"),
    ("have_data_kept", "an administrator; as keep_data_of_ending_pvc"),
    ("have_node_brought_back", "an administrator, who reads another step; as have_administrator_ask"),
    ("pin_by_selector", "a person makes the pod anew; the command of delete_finished_pod"),
    ("find_scheduler", "a look at a pod, as look_elsewhere"),
    ("await_gate", "a look at a pod, as look_elsewhere"),
    ("run_one_pod", "a person scales; the api tier has no pods of a Deployment (e2e)"),
    ("raise_memory", "an administrator changes the chart's values"),
    ("leave_reservation_to_template", "nobody: the object is at rest"),
    ("leave_static_reservation", "nobody: the object is at rest"),
    ("recover_orphan", "kept.rs recovers data"),
    ("recover_as_it_is", "the commands of delete and recover (kept.rs)"),
    ("list_orphans", "a look at data without an object, which kept.rs has"),
    ("undelete_instead", "the commands of delete and bring_back (undelete.rs)"),
    ("leave_data_to_owner", "the command of delete"),
    ("await_data_for_claim", "an administrator brings the disk back; the command of ask_why"),
    ("undelete_for_pod", "the command of bring_back (undelete.rs)"),
    ("recover_for_claim", "a person applies what it prints; kept.rs recovers data"),
    ("await_disk_of_data", "an administrator brings the disk back; the command of ask_why"),
    ("retire_for_whole_disk", "a person decides about a whole disk (whole_disks.rs)"),
    ("see_older_kinds", "an administrator, as find_agent (plugin.rs)"),
    ("find_lost_data", "a person on the node; restored.rs deletes the volume"),
    (
        "fit_content",
        "the API server refuses a smaller size before (guards.rs); the command of fit_free_space",
    ),
    ("leave_moved_disk", "the command of delete, for a reservation (disks.rs)"),
    ("leave_wrong_disk", "the command of delete; a person decides on the disk (whole_disks.rs)"),
    ("allow_adoption", "an administrator changes the chart's values"),
    ("reserve_on_node", "the command of reserve_on_disk"),
    ("reserve_without_ancestor", "the command of reserve_without_parent"),
    ("await_kept", "nobody: it ends by itself; undelete.rs has kept data back, and erases it"),
    ("await_unconfigured", "nobody: it ends by itself (reservations.rs)"),
    ("reserve_beside", "the command of reserve_for_role"),
    (
        "reserve_beside_kept",
        "the command of reserve_for_role; undelete.rs has kept data back under another name",
    ),
    ("create_in_new_reservation", "the commands of reserve_for_role and create_in_any_reservation"),
    ("have_agent_looked_for", "an administrator, as find_agent (plugin.rs)"),
    ("have_mount_looked_at", "an administrator, as find_agent (plugin.rs)"),
    ("claim_old_data", "the command of claim_again, for a volume that was kept (pvc_provisioner.rs)"),
    ("free_name_of_set", "a person scales; the api tier has no pods of a StatefulSet (e2e)"),
    (
        "free_name_of_empty",
        "pvc_provisioner.rs deletes the PersistentVolumeClaim, and the claim has the name",
    ),
    ("let_writers_go_on", "the command of take_seal_back"),
    ("replace_content", "a person fills another volume (sealed.rs)"),
    ("replace_content_from_copy", "a person fills another volume; the tour claims copies"),
    ("copies_missing", "copies.rs reserves on such a node"),
    ("seal_for_copies", "copies.rs seals"),
    ("select_nodes", "a person edits; copies.rs labels a node"),
    ("label_for_copy", "copies.rs labels a node, which gets a copy"),
    ("let_run_there", "a person decides about the pod or its class, as look_elsewhere"),
    ("await_unmount", "an administrator, as find_agent (plugin.rs)"),
    ("leave_own_pv", "a person makes the pod anew; the command of delete_finished_pod"),
    ("read_end_of_log", "a look at the log of a pod, which the api tier does not have (e2e)"),
    ("claim_after_lost_of_set", "a person scales, as free_name_of_set; then claim_after_lost"),
    ("let_agents_reach", "an administrator opens a port between nodes; transfer.rs closes one"),
    ("turn_copies_on", "an administrator changes the chart's values"),
    ("take_seal_back", "sealed.rs takes a request back"),
    ("see_digests", "shows the digests; sealed.rs claims with one"),
    ("claim_content", "the command of claim_for_role_of_volume; sealed.rs claims with a digest"),
    ("claim_named_digest", "the commands of claim_content, with the digest that a person reads"),
    ("fit_templates", "a person decides about the limit or the templates (reservations.rs)"),
    ("keep_retiring_of_ending_pvc", "the commands of keep_volume_of_pvc and keep_data_of_ending_pvc"),
    ("keep_data_of_ending_pvc", "pvc_provisioner.rs keeps the data of a PersistentVolume with policy Retain"),
    ("see_orphans", "lists what recover brings back"),
    ("claim_for_reading", "the command of claim_for_role_of_volume; sealed.rs claims so"),
    ("claim_writable", "the command of claim_for_role_of_volume; needs a raw device (whole_disks.rs)"),
    ("bring_back", "undelete.rs brings volumes back"),
    ("delete_finished_pod", "a person deletes a pod; lost_events.rs does"),
    ("enlarge_full", "nearly_full.rs fills a volume and follows it"),
    ("remove_files", "a person removes files; nearly_full.rs does"),
    ("adopt_elsewhere", "the command of delete; adopt.rs adopts again"),
    ("mend_disk", "an administrator; disks.rs mends disks"),
    (
        "delete_left_on_disk",
        "an administrator takes a disk out of the chart's values first; disks.rs deletes what is left of one",
    ),
    ("resize_static", "an administrator changes the chart's values"),
    ("uncordon", "cordon.rs runs it"),
    ("look_at_installation", "an administrator, as find_agent (plugin.rs)"),
    ("resize_template", "nodes.rs changes a template, and its reservations follow"),
    ("correct_template", "a person edits; nodes.rs labels nodes"),
    ("make_class_as_said", "a look at a class; pvc_provisioner.rs makes classes anew"),
    ("scale_up", "an administrator: the api tier has no pods (e2e)"),
    ("end_unlisted", "the commands of await_kept and bring_back (undelete.rs)"),
    ("unclaim_unseen", "the command of unclaim, for who may not see volumes"),
    ("unclaim", "nobody: the object is at rest; the command of unclaim_retiring"),
    ("unclaim_ending", "the command of unclaim, once a person has copied what is needed"),
    ("fit_unguaranteed", "the command of fit_free_space, beside the guarantees of others"),
    ("await_users_to_settle", "nobody: the node ends what it has begun"),
    ("follow_event", "whoever the quoted message names"),
    ("follow_event_of_old_data", "a person, by the quoted event; undelete.rs has kept data back"),
    ("have_growth_made", "an administrator, who reads another step; as have_administrator_ask"),
    ("have_event_followed", "an administrator, who reads another step; as have_administrator_ask"),
    ("have_space_found", "an administrator, who reads another step; as have_administrator_ask"),
    ("claim_for_named_role", "the commands of claim_for_role_of_volume, with the role that a person reads"),
    ("have_allowed", "an administrator, who changes a policy of others"),
    ("claim_after_pods", "pods on a node, which the api tier does not have; the command of claim_anew"),
    ("end_named_pods", "pods whose claim to the volume was removed by force (the simulation)"),
    ("end_holder", "a person on the node; the api tier has no process there (tests/host)"),
    ("look_at_failed", "a look at a pod, as look_elsewhere"),
    ("read_failed_log", "a look at the log of a pod, which the api tier does not have (e2e)"),
    ("have_volume_resized", "an administrator; the command of keep_size (plugin.rs)"),
    ("await_offer", "nobody: an offer comes by itself (sharing.rs)"),
    ("correct_path", "an administrator changes the chart's values"),
    ("claim_after_lost", "the commands of delete_pvc and claim; pvc_provisioner.rs keeps the data of such"),
    ("free_reserved_name", "the command of delete, for an empty reservation (disks.rs)"),
    ("unclaim_gone", "the command of unclaim; volumes.rs empties a disk that was declared gone"),
    ("have_pod_scheduled", "a look at a pod, as look_elsewhere"),
    (
        "force_pod",
        "a person gives a pod up on a node that unmounts nothing, which the api tier does not have (e2e)",
    ),
    ("ask_for_content", "the command of keep_size, in the size that the message has"),
    ("adopt_in_size", "the commands of delete and create; adopt.rs adopts again"),
    ("leave_to_writer", "a look at a pod, as look_elsewhere"),
    ("edit_anew", "a person edits; the commands of delete and create"),
    ("take_size_back", "the command of keep_size (volumes.rs)"),
    ("enlarge_parent", "the command of fit_parent, where nothing is left"),
    ("fit_reservation", "the command of keep_size"),
    ("keep_volume_of_pvc", "the command of keep_volume"),
    ("keep_used_volume", "the command of keep_volume"),
    ("keep_copied_volume", "the command of keep_volume"),
    ("keep_unused_volume", "the command of keep_volume"),
    (
        "find_disk_of_node",
        "an administrator changes the chart's values; or the command of reserve_on_any_disk",
    ),
    ("resume_job", "a person; the api tier has no controller of Jobs (e2e)"),
    ("leave_ending_namespace", "a look at a namespace, which goes by itself"),
    ("see_kind_out", "a look at a kind, which goes by itself"),
    ("reserve_for_copy", "the command of reserve_for_role; copies.rs reserves on such a node"),
    ("unselect_copy", "a person edits; copies.rs selects a node no more, whose copy goes"),
    ("free_name_of_copy", "copies.rs retires such a volume"),
    ("end_users_of_copy", "people end what uses the copy (copies.rs)"),
    ("keep_with_original", "the command of keep_volume, for the original"),
    ("end_users_of_last_copy", "people copy, and end what uses the copy"),
    ("await_new_copy", "people end what uses the copy; it is made anew by itself (the tour)"),
    ("let_first_go", "a look at another reservation, as ask_why"),
    ("let_collecting_go", "a look at another reservation, as ask_why"),
    ("keep_reserved_size", "the command of fit_free_space, in the present size"),
    ("reserve_beside_parent", "the command of reserve_without_parent"),
    ("find_data_of_lost", "a look at data without an object, as list_orphans (kept.rs)"),
    ("retire_beside", "a person decides about the volumes in a reservation, as fit_content"),
    ("make_pod_anew", "a person makes the pod anew; the command of delete_finished_pod"),
    ("make_set_anew", "a person makes the StatefulSet anew; the command of make_pvc_anew"),
    ("keep_retiring", "the command of keep_volume"),
    ("have_copies_looked_for", "an administrator, who reads another step; as have_administrator_ask"),
    ("make_both_anew", "a look at a class, as make_class_as_said"),
    ("grow_both", "the commands of enlarge_reservation and keep_size"),
    ("end_users_to_grow", "a person ends pods, which the api tier does not have (e2e)"),
    ("fit_own_disk", "the command of fit_free_space, for a reservation with a place"),
    ("free_own_disk", "the command of make_free_space, for a reservation with a place"),
    ("pin_daemon_set", "a person; the api tier has no pods of a DaemonSet (e2e)"),
    ("read_own_crash_log", "a look at the log of a pod, which the api tier does not have (e2e)"),
    ("see_finalizers_of", "a look at an object, as read_events"),
    ("see_finalizers", "a look at a PersistentVolumeClaim, as read_events"),
    ("await_new_pvc", "nobody: it is made anew by itself (claim_losses.rs)"),
    ("make_class_for_role", "an administrator makes a StorageClass anew"),
    ("make_class_of_driver", "an administrator makes a StorageClass anew"),
    (
        "claim_data_of_ephemeral",
        "the command of claim_old_data; the api tier has no controller of ephemeral volumes",
    ),
    (
        "let_grow",
        "an administrator; the commands of resize_pvc and of a class that is patched (pvc_provisioner.rs)",
    ),
    ("resize_pvc", "pvc_provisioner.rs and lost_events.rs patch PersistentVolumeClaims so"),
    ("start_pod", "a person starts a pod; pvc_provisioner.rs does"),
    ("delete_pvc", "a person ends the data; pvc_provisioner.rs deletes the PersistentVolumeClaim"),
    ("have_administrator_look", "an administrator (plugin.rs)"),
    ("upgrade_kubernetes", "an administrator"),
    ("install_plugin", "a person"),
    ("align_versions", "a person"),
    ("install_chart_anew", "an administrator, as install_chart"),
    ("install_chart", "an administrator; e2e installs the chart"),
    ("read_program_log", "a look at pods, which the api tier does not have (e2e)"),
    ("label_namespace", "an administrator; plugin.rs runs it"),
    ("correct_priority", "an administrator changes the chart's values"),
    ("correct_image", "an administrator changes the chart's values"),
    ("find_refuser", "a look at events of a workload (plugin.rs)"),
    ("see_affinity", "a look at a DaemonSet, whose administrator changes the chart's values"),
    ("fit_pod", "an administrator changes the chart's values"),
    ("describe_pod", "a look at a pod of the installation, which the api tier does not have (e2e)"),
    ("read_crash_log", "a look at the log of a pod, which the api tier does not have (e2e)"),
    ("label_node", "an administrator, who may want no volumes there"),
    ("ready_node", "a look at a node (doctor.rs)"),
    ("tolerate", "an administrator changes the chart's values"),
    ("run_on_node", "an administrator changes the chart's values"),
    ("have_mutating_policies", "an administrator changes the chart's values"),
    ("write_both", "a page; principals.rs writes both"),
    ("find_controller", "an administrator: the controller does not run"),
    ("read_about_enforcement", "a page"),
    ("read_about_older_pods", "a page"),
    ("await_agents", "an administrator, who mends what another finding names"),
    ("configure_disks", "an administrator changes the chart's values"),
    ("have_view_granted", "an administrator; the output has what may be seen"),
];

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: solo}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: full}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: full}, spec: {hard: {persistentvolumeclaims: '0'}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: old, namespace: solo}, spec: {roles: [eng]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: taken, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: ops}, spec: {role: ops, quota: {limit: 64Mi}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: waits},
 spec: {role: waits, size: 20Mi, deletionPolicy: Wait}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: outer},
 spec: {role: outer, size: 2Mi, deletionPolicy: Wait}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: foreign, namespace: team, finalizers: [test.dev/kept]},
 spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: ours, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: late, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: typo, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: lat, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: chooses, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: late, resources: {requests: {storage: 16Mi}},
 selector: {matchLabels: {a: b}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: named, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: late, resources: {requests: {storage: 16Mi}},
 volumeName: no-such-pv}}
---
{apiVersion: v1, kind: Pod, metadata: {name: inline, namespace: team}, spec: {terminationGracePeriodSeconds: 0,
 automountServiceAccountToken: false, containers: [{name: c, image: none}],
 volumes: [{name: v, csi: {driver: csi.reservoir.dev}}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: own-v, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 16Mi}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: own, namespace: team}, spec: {terminationGracePeriodSeconds: 0,
 automountServiceAccountToken: false, containers: [{name: c, image: none}],
 volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: late,
 resources: {requests: {storage: 16Mi}}}}}}]}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: other}, provisioner: test.dev/other}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: late}, provisioner: csi.reservoir.dev,
 parameters: {role: late}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: none, namespace: team}, spec: {serviceName: none,
 selector: {matchLabels: {app: none}}, template: {metadata: {labels: {app: none}},
 spec: {serviceAccountName: none, containers: [{name: c, image: none}]}}}}
";

/// A pod that no kubelet runs. `rest` is in its spec.
fn pod(name: &str, claim: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: team}}, spec: {{terminationGracePeriodSeconds: 0, \
         automountServiceAccountToken: false, containers: [{{name: c, image: none}}], {rest} \
         volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]}}}}"
    )
}

const PODS: &[(&str, &str, &str)] = &[
    ("user", "used", ""),
    ("idle", "c", ""),
    ("lost", "nothing", ""),
    ("named", "data", ""),
    ("wrong", "c", "nodeName: n2,"),
    ("first", "one", "nodeName: n1,"),
    ("second", "one", ""),
    ("wide", "w", ""),
    ("last", "foreign", ""),
];

/// A mistake, the object whose step is asked for, its reason, and the outcome of the step. Without a reason, any will do.
const MISTAKES: &[(&str, &str, &str, Outcome)] = &[
    ("kubectl reservoir reserve eng --role eng --size 100Mi --disk n1.defalt", "dr/eng", "NoSuchDisk", Ready),
    ("kubectl reservoir create data --role egn --size 32Mi", "spv/data", "NoReservation", Ready),
    (
        "kubectl reservoir claim c --role eng --volume data -n team",
        "vclaim/c -n team",
        "NoSubscription",
        Ready,
    ),
    ("kubectl reservoir claim c --role eng --volume data -n solo", "vclaim/c -n solo", "NoCapability", Ready),
    ("true", "pod/idle -n team", "Pending", Shows),
    (
        "kubectl patch pod idle -n team --subresource=status --type=merge -p '{\"status\":{\"conditions\":[{\"type\":\"PodScheduled\",\"status\":\"False\",\
         \"message\":\"1 node(s) didn\\u0027t match PersistentVolume\\u0027s node affinity\"}]}}'",
        "pod/idle -n team",
        "VolumeNode",
        Shows,
    ),
    ("true", "pod/wrong -n team", "OtherNode", Gone),
    ("true", "pvc/named -n team", "NamesVolume", Gone),
    ("true", "pod/named -n team", "Missing", ReadyOf("vclaim/data -n team")),
    ("true", "pod/lost -n team", "Missing", Shows),
    ("true", "sts/none -n team", "NotReady", Shows),
    ("true", "pvc/foreign -n team", "", Shows),
    ("kubectl delete pvc foreign -n team --wait=false", "pvc/foreign -n team", "Terminating", Shows),
    ("true", "pvc/ours -n team", "", Shows),
    ("true", "pvc/typo -n team", "", Gone),
    ("true", "pvc/chooses -n team", "ProvisioningFailed", Gone),
    ("true", "pod/inline -n team", "InlineVolume", Gone),
    ("true", "pod/own -n team", "NameTaken", Gone),
    ("true", "dr/eng", "", Shows),
    ("true", "nd/n1.default", "", Shows),
    (
        "kubectl reservoir claim d --role eng --volume dta --read-only -n team",
        "vclaim/d -n team",
        "NoSuchVolume",
        Ready,
    ),
    (
        "kubectl reservoir claim taken --role eng --volume data -n team",
        "vclaim/taken -n team",
        "NameTaken",
        ReadyOf("vclaim/taken-shared -n team"),
    ),
    (
        "kubectl reservoir subscribe lab -n team; kubectl reservoir claim g --role lab --volume data -n team",
        "vclaim/g -n team",
        "RoleNotAllowed",
        Ready,
    ),
    (
        "kubectl reservoir claim hot --role eng -l tier=hot --min-size 16Mi -n team",
        "vclaim/hot -n team",
        "NoMatch",
        Ready,
    ),
    (
        "kubectl reservoir claim huge --role eng -l tier=hot --min-size 10Gi -n team",
        "vclaim/huge -n team",
        "NoMatch",
        Shows,
    ),
    ("kubectl reservoir create wide --role eng --size 80Mi", "spv/wide", "ReservationFull", Ready),
    ("kubectl reservoir claim w --role eng --volume wide -n team --wait", "spv/wide", "", Shows),
    ("true", "vclaim/w -n team", "", Shows),
    ("kubectl reservoir create fresh --role empty --size 16Mi", "spv/fresh", "NoReservation", Ready),
    (
        "kubectl reservoir reserve archive --role archive --size 40Mi --wait; \
         kubectl reservoir create old --role archive --size 16Mi --exclusive --keep-for 1h --wait; kubectl delete spv old; \
         kubectl reservoir subscribe archive -n team; kubectl reservoir claim old --role archive --volume old -n team",
        "vclaim/old -n team",
        "NoSuchVolume",
        Ready,
    ),
    // Both steps were followed: with the pod, claim and volume end.
    (
        "kubectl delete pod wide -n team; while kubectl get spv wide; do sleep 1; done; \
         kubectl reservoir reserve any --role any --size 1Mi --disk elsewhere.else",
        "dr/any",
        "NoSuchDisk",
        Ready,
    ),
    (
        "echo '{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: chosen}, spec: {role: any, size: 1Mi, \
         nodeSelector: {disk: fast}}}' | kubectl create -f -",
        "dr/chosen",
        "NoSuchDisk",
        Ready,
    ),
    (
        "kubectl reservoir create near --role eng --size 16Mi --reservation egn",
        "spv/near",
        "NoReservation",
        Ready,
    ),
    (
        "kubectl reservoir create far --role eng --size 16Mi --reservation zzzz",
        "spv/far",
        "NoReservation",
        Ready,
    ),
    (
        "echo '{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: absent}, spec: {role: eng, size: 16Mi, \
         recover: {uid: 00112233-4455-6677-8899-aabbccddeeff}}}' | kubectl create -f -",
        "spv/absent",
        "NoOrphan",
        Shows,
    ),
    (
        "kubectl reservoir claim n --role eng --volume unlike -n team",
        "vclaim/n -n team",
        "NoSuchVolume",
        Shows,
    ),
    (
        "kubectl reservoir reserve child --role stem/child --size 1Mi --parent stem",
        "dr/child",
        "NoParent",
        Ready,
    ),
    (
        "kubectl reservoir reserve sub --role eng/ml --size 50Mi --parent egn",
        "dr/sub",
        "NoParent",
        // The parent is too small then.
        Shows,
    ),
    ("true", "dr/sub", "ParentFull", Ready),
    ("kubectl reservoir reserve much --role ops --size 100Mi", "dr/much", "OverQuota", Ready),
    ("kubectl reservoir reserve big --role big --size 5Gi", "dr/big", "NotEnoughRoom", Ready),
    (
        "kubectl delete dr big; kubectl reservoir reserve alien --role alien --size 1Mi --parent eng",
        "dr/alien",
        "NotASubRole",
        Ready,
    ),
    (
        "kubectl reservoir create inside --role waits --size 16Mi --wait; kubectl delete dr waits --wait=false",
        "dr/waits",
        "HasVolumes",
        Gone,
    ),
    (
        "kubectl reservoir reserve inner --role outer/in --size 1Mi --parent outer --wait; kubectl delete dr outer --wait=false",
        "dr/outer",
        "HasRefinements",
        Gone,
    ),
    (
        "kubectl reservoir reserve used --role used --size 40Mi; kubectl reservoir create used --role used --size 32Mi --wait; \
         kubectl reservoir subscribe used -n team; kubectl reservoir claim used --role used --volume used -n team --wait; \
         sleep 2; kubectl reservoir resize used 16Mi",
        "spv/used",
        "ShrinkInUse",
        Ready,
    ),
    ("kubectl reservoir retire used", "spv/used", "Retiring", Ready),
    (
        "kubectl reservoir retire used; sleep 1; kubectl reservoir claim late --role used --volume used -n team",
        "vclaim/late -n team",
        "VolumeRetiring",
        Shows,
    ),
    (
        "kubectl reservoir reserve one --role one --size 20Mi; kubectl reservoir create one --role one --size 16Mi --exclusive --wait; \
         kubectl reservoir subscribe one -n team; kubectl reservoir claim one --role one --volume one -n team --wait; \
         kubectl reservoir claim two --role one --volume one -n team",
        "vclaim/two -n team",
        "VolumeHeld",
        Shows,
    ),
    ("true", "pod/second -n team", "VolumeHeld", Shows),
    (
        "kubectl patch spv one --type=merge -p '{\"spec\":{\"deletionPolicy\":\"Wait\"}}'; kubectl delete spv one --wait=false",
        "spv/one",
        "Destroying",
        Shows,
    ),
    (
        "kubectl reservoir create vision --role vision --size 16Mi; kubectl reservoir subscribe vision -n team; \
         kubectl reservoir claim early --role vision --volume vision -n team",
        "vclaim/early -n team",
        "VolumeNotReady",
        Ready,
    ),
    (
        "kubectl patch spv vision --type=merge -p '{\"metadata\":{\"finalizers\":null}}'; \
         kubectl patch spv vision --subresource=status --type=merge -p '{\"status\":{\"claims\":[],\"claimCount\":0}}'; kubectl delete spv vision",
        "vclaim/early -n team",
        "VolumeLost",
        Gone,
    ),
    ("kubectl reservoir subscribe vison -n solo", "rsub/vison -n solo", "", ReadyOf("rsub/vision -n solo")),
    (
        "kubectl reservoir subscribe eng -n full; kubectl reservoir claim c --role eng --volume data -n full",
        "vclaim/c -n full",
        "Refused",
        Shows,
    ),
    (
        "kubectl reservoir reserve raw --role raw --size 16Mi --wait; \
         kubectl reservoir create raw --role raw --size 16Mi --reservation raw --block",
        "spv/raw",
        "WrongDisk",
        Ready,
    ),
    (
        "kubectl reservoir reserve big --role big --size 2Mi --wait; \
         echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: big}, spec: {role: big, quota: {limit: 1Mi}}}' | \
         kubectl create -f -",
        "vrole/big",
        "OverLimit",
        Ready,
    ),
    (
        "sleep 1; echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: twin}, spec: {role: big}}' | kubectl create -f -",
        "vrole/twin",
        "RoleTaken",
        Gone,
    ),
    (
        "echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: lord}, spec: {role: lord, quota: \
         {guarantee: 9Gi}}}' | kubectl create -f -; sleep 1; kubectl reservoir reserve serf --role serf --size 1Mi",
        "dr/serf",
        "Guaranteed",
        Shows,
    ),
    ("true", "vrole/lord", "GuaranteeTooLarge", Ready),
    (
        "kubectl patch vrole lord --type=merge -p '{\"spec\":{\"quota\":null}}'; \
         kubectl reservoir reserve xfs --role xfs --size 400Mi --disk n2.default; \
         kubectl reservoir create xfs --role xfs --size 320Mi --fs-type xfs --wait; kubectl reservoir resize xfs 300Mi",
        "spv/xfs",
        "CannotShrink",
        Ready,
    ),
    (
        "kubectl patch node n2 --subresource=status --type=merge -p \
         '{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\",\"reason\":\"Test\"}]}}'",
        "nd/n2.default",
        "NodeUnreachable",
        Shows,
    ),
];

/// A command that prints a step, the step, and a command that succeeds once the step was followed.
const PRINTS: &[(&str, &str, &str)] = &[
    (
        "kubectl patch node n2 --subresource=status --type=merge -p \
         '{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Test\"}]}}'; \
         kubectl reservoir delete pod/idle -n team",
        "delete_with_kubectl",
        "! kubectl get pod idle -n team",
    ),
    (
        "kubectl reservoir subscribe lab -n solo; kubectl reservoir subscribe lab ops --name lab -n solo",
        "extend_subscription",
        "kubectl get rsub lab -n solo -o yaml | grep -w ops",
    ),
    (
        "kubectl reservoir grant vision --verbs use --to user jane; kubectl reservoir subscribe vision -n solo; \
         kubectl reservoir claim leaves --role vision --volume none -n solo; \
         kubectl reservoir revoke vision --from user jane",
        "end_claims_of_receiver",
        "! kubectl get vclaim leaves -n solo",
    ),
    ("kubectl reservoir unsubscribe eng -n solo", "end_claims_of_role", "! kubectl get vclaim c -n solo"),
    (
        "kubectl reservoir resize pvc/c 33Mi -n team",
        "resize_volume",
        "kubectl get spv data -o jsonpath='{.spec.size}' | grep -w 33Mi",
    ),
    ("kubectl reservoir erase nothing", "see_kept", "true"),
    (
        "kubectl reservoir reserve kept --role kept --size 64Mi; kubectl reservoir create kept --role kept --size 16Mi --keep-for 1h --wait; \
         kubectl reservoir delete spv/kept --wait; kubectl reservoir create kept --role kept --size 16Mi --wait; \
         kubectl reservoir undelete kept",
        "undelete",
        "kubectl wait --for=condition=Ready spv/kept-undeleted --timeout=50s",
    ),
    (
        "kubectl reservoir subscribe kept -n solo; kubectl reservoir create last --role kept --size 16Mi --keep-for 1h --wait; kubectl reservoir delete spv/last --wait; \
         kubectl reservoir undelete last",
        "claim_again",
        "kubectl get vclaim last -n solo",
    ),
    (
        "kubectl reservoir reserve joes --role eng --size 1Mi --as joe",
        "have_operator_bound",
        "kubectl get clusterrolebinding joe-operates",
    ),
    (
        "kubectl reservoir subscribe vision -n full --as joe",
        "have_user_bound",
        "kubectl get rolebinding joe-claims -n full",
    ),
    (
        "kubectl create clusterrole sees --verb=list --resource=diskreservations.reservoir.dev; \
         kubectl create clusterrolebinding sees --clusterrole=sees --user=jane; kubectl reservoir doctor --as jane",
        "have_rights_granted",
        "kubectl get clusterrolebinding | grep user:jane",
    ),
];

/// The name of the step that the text ends with, and its command. Of several that fit, one with a known end, and the most words.
fn parse(text: &str) -> Option<(&'static str, &str)> {
    let fits = |template: &str| -> Option<((bool, usize), usize)> {
        let template = template.replace("{{", "\u{1}").replace("}}", "\u{2}");
        let fixed: Vec<String> = template
            .split(['{', '}'])
            .step_by(2)
            .map(|part| part.replace('\u{1}', "{").replace('\u{2}', "}"))
            .collect();
        let begin = if fixed[0].is_empty() { 0 } else { text.find(&fixed[0])? };
        let end = fixed
            .iter()
            .try_fold(begin, |at, part| text[at..].find(part).map(|found| at + found + part.len()))?;
        let last = fixed.last().unwrap();
        let words = fixed.iter().map(String::len).sum();
        (end == text.len() || last.is_empty()).then_some(((!last.is_empty(), words), begin))
    };
    let found = ALL.iter().filter_map(|(name, template)| Some((fits(template)?, *name)));
    let ((_, begin), name) = found.max_by_key(|((words, _), _)| *words)?;
    let command = text[begin..].split("   #").next()?;
    Some((name, command.find("kubectl").map_or("", |at| &command[at..])))
}

/// The step with real names.
fn filled(step: &str) -> String {
    let (_, template) = ALL.iter().find(|(name, _)| *name == step).unwrap();
    let names = [
        ("role", "eng"),
        ("namespace", "team"),
        ("object", "spv/data"),
        ("volume", "data"),
        ("pod", "lost"),
        ("pvc", "c"),
    ];
    names
        .into_iter()
        .fold((*template).to_owned(), |text, (part, name)| text.replace(&format!("{{{part}}}"), name))
}

/// T4: each row makes a mistake, gets the step and follows it. In the end each step of the program was followed, or a person
/// has to act.
#[tokio::test(flavor = "multi_thread")]
async fn t4_advice_that_is_followed_leads_to_ready() {
    let cluster = Cluster::start().await;
    let mut agents = Vec::new();
    for (node, capacity) in [("n1", "512Mi"), ("n2", "1Gi")] {
        cluster.node(node, true).await;
        agents.push(Agent::start(&cluster, node, capacity).await);
        until_reason(&cluster.all::<NodeDisk>(), &format!("{node}.default"), "Ready").await;
    }
    let pods: Vec<String> = PODS.iter().map(|(name, claim, rest)| pod(name, claim, rest)).collect();
    let objects = format!("{OBJECTS}---\n{}", pods.join("\n---\n"));
    until("the default service account", || async { cluster.try_apply(&objects).await.ok() }).await;
    let shell = Shell::new(&cluster).await;
    let mut followed = BTreeSet::new();
    for (mistake, object, reason, outcome) in MISTAKES {
        shell.run(mistake);
        let step = until(&format!("{object} is {reason}"), || async {
            let why: Value =
                serde_json::from_str(&run(&cluster, &format!("why {object} -o json")).out).ok()?;
            let because = why["because"].as_array()?;
            let told = reason.is_empty() || because.iter().any(|report| report["reason"] == *reason);
            let step = why["next"][0].as_str().filter(|_| told)?;
            // The controller may have said nothing yet.
            (!reason.is_empty() || !step.contains("kubectl reservoir doctor")).then(|| step.to_owned())
        })
        .await;
        let (name, command) = parse(&step).unwrap_or_else(|| panic!("{step} is not in plan/advice.rs"));
        followed.insert(name);
        shell.run(command);
        let ready = match outcome {
            Ready => object,
            ReadyOf(other) => other,
            Gone => {
                until(&format!("{object} is gone after: {step}"), || async {
                    let ran = run(&cluster, &format!("why {object}"));
                    (!ran.ok && ran.err.contains("there is no ")).then_some(())
                })
                .await;
                continue;
            }
            Shows => continue,
        };
        until(&format!("{ready} is ready after: {step}"), || async {
            (parsed(&cluster, &format!("why {ready}"))["ready"] == true).then_some(())
        })
        .await;
    }
    for (command, name, followed_if) in PRINTS {
        let out = shell.try_run(&format!("({command}) 2>&1")).unwrap_or_else(|failed| failed);
        let step = out.lines().filter_map(parse).find(|(step, _)| step == name);
        let (_, command) = step.unwrap_or_else(|| panic!("{command} prints no {name}: {out}"));
        let asks = command.contains(" unclaim ") || command.contains("--end-claims");
        shell.run(&format!("{command}{}", if asks { " --yes" } else { "" }));
        until(&format!("{followed_if} after: {command}"), || async { shell.try_run(followed_if).ok() }).await;
        followed.insert(name);
    }
    for name in LOOKS {
        let step = filled(name);
        shell.run(parse(&step).unwrap().1);
        assert!(followed.insert(name), "{name} has a row");
    }
    // A row prints it where the controller was refused before the question; rights.rs grants.
    followed.extend(["grant", "have_granted"]);
    let twice: Vec<_> = ELSEWHERE.iter().filter(|(name, _)| !followed.insert(name)).collect();
    let all: BTreeSet<&str> = ALL.iter().map(|(name, _)| *name).collect();
    let missing: Vec<_> = all.difference(&followed).collect();
    assert!(
        missing.is_empty() && twice.is_empty(),
        "no row follows {missing:?}, and these have one: {twice:?}"
    );
    let status = does(&cluster, "status");
    let advice: Vec<&str> = status.lines().filter(|line| line.starts_with("  kubectl")).collect();
    assert!(advice.len() > 5, "{status}");
    advice.into_iter().for_each(|command| drop(shell.run(command)));
}
