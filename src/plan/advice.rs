//! The next steps that people read in `kubectl reservoir` and its refusals: a function for each.
//!
//! A step is a command with real names. Its comment, after `   #`, has the reason, or another way. A few steps need a person
//! or another program. tests/api_tier/advice.rs runs each step of [`ALL`], or says who does.

use std::fmt::Display;

/// Defines the functions, and the list of them.
macro_rules! advice {
    ($($name:ident($($part:ident),*) = $text:literal;)+) => {
        $(#[doc = $text] pub fn $name($($part: impl Display),*) -> String { format!($text) })+

        /// Name and text of each step, in source order. The text has its parts in braces.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $text)),+];
    };
}

advice! {
    nothing_to_do() = "there is nothing to do";
    look_again() = "wait a few seconds; if the state stays the same: kubectl reservoir doctor";
    look_again_or_ask(object) =
        "wait a few seconds; if the state stays the same, have an administrator run: kubectl reservoir why {object}";
    have_controller_checked() = "have an administrator run: kubectl reservoir doctor   # checks that the controller runs";
    check_controller() = "kubectl reservoir doctor   # checks that the controller runs in the version of this plug-in";
    correct_field(object) = "kubectl edit {object}   # correct the field that the message names";
    delete(object) = "kubectl delete {object}";
    ask_why(object) = "kubectl reservoir why {object}";
    have_administrator_ask(object) = "have an administrator run: kubectl reservoir why {object}";
    have_run(step) = "have an administrator run: {step}";

    // Nodes and disks.
    bring_node_back(node, disk) =
        "kubectl get nodes   # bring {node} back, and its data is back; only if the disk is lost for good, give its data up, \
         which cannot be undone: kubectl patch nodedisk {disk} --type=merge -p '{{\"spec\":{{\"gone\":true}}}}'";
    uncordon_for_new(node) = "kubectl uncordon {node}   # nothing new is placed on a cordoned node; or use another node";
    read_agent_log(namespace, pod) = "kubectl logs -n {namespace} {pod} --tail=50";
    mend_disk(release, namespace) =
        "helm get values {release} -n {namespace}   # mend what the message names: the disk, or agent.disks with helm upgrade; the \
         agent looks again by itself";
    delete_left_on_disk(reservation, disk) =
        "kubectl delete dr/{reservation}   # nothing is in it; the same for each one on the disk, and NodeDisk {disk} can be deleted; or \
         configure the disk again: agent.disks in the chart's values";
    find_agent(node) = "kubectl reservoir doctor   # looks for the agent of {node}";
    end_pods_of_gone(pod, namespace, disk) =
        "kubectl delete pod {pod} -n {namespace}   # it uses a volume of NodeDisk {disk}, and so the first: then claims, volumes, \
         reservations and the NodeDisk; if it does not end: kubectl reservoir why pod/{pod} -n {namespace}";
    empty_gone_disk(object) =
        "kubectl reservoir tree   # delete the volumes and reservations of {object}, then the NodeDisk";
    remove_foreign_files(node) =
        "remove foreign files from the disk on {node}, and none of Reservoir's; no new volume is made there before. If there are none, a \
         process has deleted files open: lsof +L1";
    find_lost_data(node, object) =
        "look for the disk and its data on {node}; if the data is lost for good: kubectl delete {object}";
    retire_lost(node, volume) =
        "look for the disk and its data on {node}; if the data is lost for good: kubectl reservoir retire {volume}   # it goes with its \
         last claim";
    save_lost_data(pod, namespace, volume) =
        "kubectl exec -it {pod} -n {namespace} -- sh   # copy what is needed out of the pod before it ends, if its mount still has the \
         data of volume {volume}: nothing else has it";

    // Reservations.
    fit_free_space(object, size) =
        "kubectl reservoir resize {object} {size}   # or free space, or add a disk: kubectl reservoir status";
    let_first_go(first) =
        "kubectl reservoir why dr/{first}   # the free space is kept for it, as the message says; if it is made smaller or deleted, the space \
         is free at once";
    make_free_space() = "kubectl reservoir status   # free space, or add a disk";
    fit_own_disk(object, size, disk) =
        "kubectl reservoir resize {object} {size}   # or free space on disk {disk}, which it does not leave: kubectl reservoir tree";
    free_own_disk(disk) =
        "kubectl reservoir tree   # end what is not needed on disk {disk}, which it does not leave: another disk is no help";
    fit_limit(object, size, role) =
        "kubectl reservoir resize {object} {size}   # or delete reservations of role {role}, or have an \
         administrator raise spec.quota.limit of its VolumeRole: kubectl reservoir tree --role {role}";
    free_limit(role) =
        "kubectl reservoir tree --role {role}   # delete reservations of the role, or have an administrator raise \
         spec.quota.limit of its VolumeRole";
    let_collecting_go(first, role) =
        "kubectl reservoir why dr/{first}   # the rest of the limit of role {role} is collected for it; if it is made smaller or deleted, the rest \
         is free at once; or have an administrator raise spec.quota.limit of the VolumeRole";
    lower_guarantee(vrole) =
        "kubectl reservoir why vrole/{vrole}   # wait for free space, or have an administrator lower spec.quota.guarantee of \
         VolumeRole {vrole}";
    lower_guarantee_to(vrole, guarantee) =
        "kubectl patch vrole {vrole} --type=merge -p '{{\"spec\":{{\"quota\":{{\"guarantee\":{guarantee}}}}}}}'   # an administrator's decision: \
         the request is served then; or wait for free space";
    raise_limit_to(vrole, limit) =
        "kubectl patch vrole {vrole} --type=merge -p '{{\"spec\":{{\"quota\":{{\"limit\":\"{limit}\"}}}}}}'   # an administrator's decision: no \
         reservation of the role can be large enough within its present limit; or ask for less";
    lower_guarantee_within(vrole, role) =
        "kubectl reservoir why vrole/{vrole}   # what is guaranteed to it is kept within the limit of role {role}: have an administrator \
         lower spec.quota.guarantee of VolumeRole {vrole}, or raise spec.quota.limit for role {role}";
    fit_unguaranteed(object, size, vrole) =
        "kubectl reservoir resize {object} {size}   # what is guaranteed to nobody else; or wait for free space, or have an \
         administrator lower spec.quota.guarantee of VolumeRole {vrole}";
    see_guarantees() = "kubectl get volumeroles   # wait for free space, or lower another role's guarantee";
    fit_guarantee(vrole, size, remedy) =
        "kubectl patch vrole {vrole} --type=merge -p '{{\"spec\":{{\"quota\":{{\"guarantee\":\"{size}\"}}}}}}'   # the most that can be \
         guaranteed; or {remedy}";
    end_guarantee(vrole, remedy) =
        "kubectl patch vrole {vrole} --type=merge -p '{{\"spec\":{{\"quota\":{{\"guarantee\":null}}}}}}'   # nothing can be guaranteed \
         beside the limits and guarantees of others; or {remedy}";
    resize_template(vrole, index, size, template) =
        "kubectl patch vrole {vrole} --type=json -p '[{{\"op\":\"replace\",\"path\":\
         \"/spec/reservationTemplates/{index}/size\",\"value\":\"{size}\"}}]'   # template {template} decides about the \
         size on every node";
    resize_static(disk, role, size) =
        "have an administrator set size {size} for role {role} in reservations of disk {disk}, in agent.disks of the chart's \
         values";
    correct_template(vrole) =
        "kubectl edit vrole {vrole}   # correct the template that the message names, or give the nodes its labels";
    restore_template(role, vrole, template) =
        "kubectl reservoir tree --role {role}   # the reservation ends with its last volume; to keep and change it, have \
         template {template} of VolumeRole {vrole} select its node again";
    free_reserved_name(dr) =
        "kubectl reservoir why dr/{dr}   # it has the name that the configuration gives to another one; once nothing is in it: kubectl delete \
         dr/{dr}";
    fit_content(object, size, role) =
        "kubectl reservoir resize {object} {size}   # or retire a volume in it: kubectl reservoir tree --role {role}";
    fit_parent(parent, more, object, less) =
        "kubectl reservoir resize dr/{parent} {more}   # or ask for less: kubectl reservoir resize {object} {less}";
    enlarge_parent(parent, size) = "kubectl reservoir resize dr/{parent} {size}   # nothing is left in it";
    leave_moved_disk(object) =
        "kubectl delete {object}   # on the disk, reserve without the agent's configuration: kubectl reservoir \
         reserve --help";
    see_no_disk() = "kubectl reservoir doctor   # there is no disk";
    find_disk_of_node(node, anew) =
        "kubectl reservoir doctor   # says why node {node} has no agent, if it has none; its agent has the disks of agent.disks, or of its pool, \
         in the chart's values; or reserve on another node: {anew}";
    reserve_on_disk(anew, disk) = "{anew} --disk {disk}   # if NodeDisk {disk} is meant";
    reserve_on_node(anew, node) = "{anew} --node {node}   # if node {node} is meant";
    reserve_on_any_disk(anew) = "{anew}   # on any disk; kubectl get nodedisks lists all of them";
    reserve_without_selector(anew, keys) =
        "{anew}   # on any disk; or with --node-selector and the labels of a node: kubectl get nodes -L {keys}";
    reserve_from_parent(anew, parent) = "{anew} --parent {parent}   # if reservation {parent} is meant";
    leave_parentless(role, object) =
        "kubectl reservoir tree --role {role}   # what lives in it goes on, and no other reservation takes the place of its parent: make what is \
         new in another one, and when it is empty: kubectl delete {object}";
    make_parent(parent, role, size) =
        "kubectl reservoir reserve {parent} --role {role} --size {size}   # makes the parent";
    reserve_without_ancestor(anew) = "{anew}   # without a parent: the role has no ancestor";
    reserve_without_parent(anew) = "{anew}   # without a parent; or for a sub-role of the parent's role";
    await_kept(until, uid) =
        "kubectl reservoir kept   # nothing is to be done: the reservation goes when its kept data ends, at {until}; to have that back: \
         kubectl reservoir undelete {uid}; to end it before, for good: kubectl reservoir erase {uid}";
    await_unconfigured(role) =
        "kubectl reservoir tree --role {role}   # it goes by itself after its last volume, and takes new ones before; to keep it, put it \
         into reservations of its disk again, in agent.disks of the chart's values";
    keep_reserved_size(object, size, parent) =
        "kubectl reservoir resize {object} {size}   # takes the wish back: DiskReservation {parent}, which it was carved out of, is being \
         deleted, and gives no more";
    reserve_beside_parent(anew, parent) = "{anew}   # without a parent: DiskReservation {parent} is being deleted, and gives nothing more";
    retire_content(volume) =
        "kubectl reservoir retire {volume}   # destroys it, with its data, after its last use, if nobody needs it; the same for each one in the \
         reservation";
    unselect_copy(original, node, copy) =
        "kubectl edit spv {original}   # have spec.copies select node {node} no more: copy {copy}, which is in the reservation, goes then after its \
         last use; the same for each one in the reservation";
    delete_content(reservation) =
        "kubectl reservoir delete dr/{reservation}   # it was carved out; the same for each one in the reservation";
    find_data_of_lost(volume, uid, disk) =
        "kubectl reservoir orphans   # volume {volume} has no object, and NodeDisk {disk} lists its data within half a minute; if it does not, \
         the data is lost: a volume with spec.recover.uid {uid}, of the same role and size, takes its place, and can be deleted";
    use_fewer_reservations() =
        "kubectl reservoir tree   # delete reservations that are not needed, or use fewer and larger ones";
    use_less_of_role(role) = "kubectl reservoir tree --role {role}   # delete what is not needed of the role";
    fit_templates(vrole) =
        "kubectl edit vrole {vrole}   # raise spec.quota.limit, or shrink or narrow its reservationTemplates, which make a deleted \
         reservation anew";
    raise_limit(vrole, limit, role) =
        "kubectl patch vrole {vrole} --type=merge -p '{{\"spec\":{{\"quota\":{{\"limit\":\"{limit}\"}}}}}}'   # what is reserved for the role; or \
         delete reservations: kubectl reservoir tree --role {role}";

    edit_anew(object, name) =
        "kubectl get {object} -o yaml > {name}.yaml && kubectl delete {object} && kubectl create --edit -f {name}.yaml   # correct what the \
         message names, and keep the other fields";

    // Volumes.
    create_in_near_reservation(anew, reservation) = "{anew}   # if reservation {reservation} is meant";
    create_in_any_reservation(anew, role) = "{anew}   # in any reservation of role {role} or an ancestor";
    create_without_block(anew) =
        "{anew}   # with a file system: no disk of the cluster has raw devices; an administrator adds one in \
         agent.disks";
    allow_adoption(path) =
        "have an administrator allow {path}: adoptRoots and allowUnenforced of a disk in agent.disks of the chart's values";
    reserve_for_data(name, role, size, disk) =
        "kubectl reservoir reserve {name} --role {role} --size {size} --disk {disk}   # where the data is that the volume is to recover";
    reserve_for_role(name, role, size) = "kubectl reservoir reserve {name} --role {role} --size {size}";
    reserve_beside(name, role, size, deleting) =
        "kubectl reservoir reserve {name} --role {role} --size {size}   # DiskReservation {deleting} is being deleted, and takes no new \
         volume";
    reserve_beside_kept(name, role, size, deleting, uid, old) =
        "kubectl reservoir reserve {name} --role {role} --size {size}   # DiskReservation {deleting} is being deleted, and takes no new \
         volume; the data of before, which it keeps, comes back by: kubectl reservoir undelete {uid} --name {old}";
    create_in_new_reservation(name, role, size, anew, other, trouble) =
        "kubectl reservoir reserve {name} --role {role} --size {size} && {anew}   # the volume is made anew in {name}, since DiskReservation \
         {other} is {trouble}";
    retire_for_whole_disk(role, reservation) =
        "kubectl reservoir tree --role {role}   # DiskReservation {reservation} is a whole disk, with one volume and no other size, and no \
         other disk has enough: ask for less, retire its volume, or add a disk";
    retire_beside(role, reservation) =
        "kubectl reservoir tree --role {role}   # DiskReservation {reservation} is being deleted, and gets no larger: only the end of another \
         volume in it leaves space; the volume stays usable in its size";
    enlarge_reservation(reservation, size, role) =
        "kubectl reservoir resize dr/{reservation} {size}   # or retire a volume in it: kubectl reservoir tree \
         --role {role}";
    fit_reservation(volume, size, role) =
        "kubectl reservoir resize spv/{volume} {size}   # its disk has no more; or free space: kubectl reservoir tree \
         --role {role}";
    grow_both(reservation, larger, resize) =
        "kubectl reservoir resize dr/{reservation} {larger} && {resize}   # the most that the disk of both has, which they do not leave";
    end_users_to_grow(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # the volume grows while no pod has it mounted: end its pods, as by scaling \
         to 0, wait for the size, and start them again";
    ask_for_content(volume, size) =
        "kubectl reservoir resize spv/{volume} {size}   # the least for its files and its file system; or remove files";
    adopt_in_size(anew) = "{anew}   # in the size of what is in the directory, which stays";
    await_users_to_settle(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # nothing is to be done: the growth ends when no pod has the volume mounted";
    make_both_anew(class, pvc, namespace) =
        "kubectl get storageclass {class} -o yaml   # delete it and PersistentVolumeClaim {pvc} of namespace {namespace}, and make \
         both anew: only the class can say something else";
    use_fewer_volumes(role) =
        "kubectl reservoir tree --role {role}   # retire volumes that are not needed, or reserve once more";
    enlarge_full(volume, size) =
        "kubectl reservoir resize spv/{volume} {size}   # or remove files in a pod that uses the volume";
    remove_files(role) =
        "kubectl reservoir tree --role {role}   # remove files in a pod that uses the volume, which cannot be larger now";
    create_without_data(anew) =
        "{anew}   # a new, empty volume, without spec.recover: no disk reports the data; or, if its disk is away, wait for that: kubectl \
         reservoir orphans";
    leave_data_to_owner(object, owner, role) =
        "kubectl delete {object}   # it has no data: that is volume {owner}'s, which is claimed for role {role}: kubectl reservoir claim --help";
    undelete_instead(object, volume, uid, until) =
        "kubectl delete {object} && kubectl reservoir undelete {uid}   # volume {volume} comes back with its data, which is kept until {until}; \
         {object} has none";
    await_disk_of_data(disk, object) =
        "kubectl reservoir why nd/{disk}   # the disk is not ready, and may have the data; to give the volume up: kubectl delete {object}";
    list_orphans(object) =
        "kubectl reservoir orphans   # lists the data without an object, and its disk; to give the volume up: kubectl \
         delete {object}";
    leave_wrong_disk(object) =
        "kubectl delete {object}   # then create it in a reservation on a suitable disk: kubectl get nodedisks -o \
         wide";
    adopt_elsewhere(object) =
        "kubectl delete {object}   # the directory stays; then adopt another path, or in a reservation on the node that has it";
    keep_file_system(volume, size) =
        "kubectl reservoir resize spv/{volume} {size}   # back to the present size; or copy the data into a smaller \
         volume";
    keep_size(volume, size) =
        "kubectl reservoir resize spv/{volume} {size}   # keeps its size; or end the pods that use the volume";
    take_size_back(volume, size) =
        "kubectl reservoir resize spv/{volume} {size}   # takes the wish back; or do what the message says";
    let_writers_go_on(volume) =
        "kubectl patch spv {volume} --type=merge -p '{{\"spec\":{{\"sealed\":false,\"verify\":null}}}}'   # lets the pods go on that \
         the message names; else end them, and it is sealed";
    replace_content(volume) =
        "kubectl describe spv {volume}   # fill another volume from the source of the files; its pods move to that one; only after \
         that: kubectl delete spv {volume}";
    replace_content_from_copy(volume, copy, role) =
        "kubectl reservoir claim {copy} --role {role} --volume {copy} --read-only   # that copy still has the files: fill another volume from \
         the copy, move the pods of {volume} to that one, and only then: kubectl delete spv {volume}, which takes its copies along";
    await_new_copy(original) =
        "end the claims and pods that use the copy, and it is made anew from volume {original} by itself";
    take_seal_back(volume) =
        "kubectl patch spv {volume} --type=merge -p '{{\"spec\":{{\"sealed\":false,\"verify\":null}}}}'   # then remove or change the \
         file that the message names, and set it to true again";
    copies_missing(volume) =
        "kubectl describe spv {volume}   # its condition Copied says what each node lacks: do that, or select fewer nodes";
    reserve_for_copy(name, role, size, node) =
        "kubectl reservoir reserve {name} --role {role} --size {size} --node {node}   # the node gets its copy there; the same for each node \
         that the message names, or select fewer nodes";
    free_name_of_copy(other, volume) =
        "kubectl reservoir why spv/{other}   # it has the name of a copy of volume {volume}, and is none. If nobody needs its data: kubectl \
         reservoir retire {other}; else select other nodes";
    seal_for_copies(volume) =
        "kubectl patch spv {volume} --type=merge -p '{{\"spec\":{{\"sealed\":true}}}}'   # when its files are complete";
    select_nodes(volume) =
        "kubectl edit spv {volume}   # correct spec.copies.nodeSelector, or label nodes";
    label_for_copy(node, labels, volume) =
        "kubectl label node {node} {labels}   # volume {volume} gets a copy there then, where its role has reserved space, and the pod starts; or \
         keep the pod away from the node";
    let_agents_reach(address) =
        "kubectl get networkpolicies -A   # each agent has to reach the others at the port of agent.copies: here {address}, which a NetworkPolicy \
         for the agents' pods or a firewall may close; or the agent there is not ready: kubectl reservoir doctor; the copy goes on by itself";
    turn_copies_on() = "have an administrator set agent.copies.enabled: true in the chart's values, with helm upgrade";
    keep_volume_of_pvc(volume, pvc, namespace) =
        "kubectl reservoir unretire {volume}   # keeps the volume; else end the pods that use PersistentVolumeClaim {pvc}: \
         kubectl delete pvc {pvc} -n {namespace}";
    keep_volume(volume) =
        "kubectl reservoir unretire {volume}   # keeps the volume; else delete the claims that are bound to it";
    keep_used_volume(volume) = "kubectl reservoir unretire {volume}   # keeps the volume; else end the pods that use it";
    keep_unused_volume(volume) =
        "kubectl reservoir unretire {volume}   # keeps the volume, if that is not too late; else nothing is to be done: nobody uses it, and it \
         is destroyed in a moment";
    keep_copied_volume(volume, uid) =
        "kubectl reservoir unretire {volume}   # keeps the volume; else end the claims and pods of the copies that are in use: kubectl get spv \
         -l reservoir.dev/copy-of={uid} -o wide";
    keep_with_original(original) =
        "kubectl reservoir unretire {original}   # keeps volume {original} and its copies; else end the claims and pods that use the copy, \
         and it goes by itself";
    end_users_of_last_copy(original) =
        "copy what is needed, then end the claims and pods that use the copy, and it goes by itself: volume {original} was deleted";
    end_users_of_copy(original) =
        "end the claims and pods that use the copy, and it goes by itself; to keep it, have spec.copies of volume {original} select its node";
    end_holder(node) =
        "kubectl get events -A --field-selector=reason=MountHeld   # end the process on {node} that the message or an event names; then it \
         goes on by itself";
    end_named_pods(volume) =
        "kubectl describe spv {volume}   # end the pods that its condition Ready names; then it goes on by itself";
    end_users(role) =
        "kubectl reservoir tree --role {role}   # end the claims and pods that use the volume; then it goes on by \
         itself";

    // Claims.
    subscribe(role, namespace) = "kubectl reservoir subscribe {role} -n {namespace}";
    share_resources(subscription, namespace) =
        "kubectl patch rolesubscription {subscription} -n {namespace} --type=merge -p \
         '{{\"spec\":{{\"capabilities\":[\"SHARED_RESOURCES\"]}}}}'   # the namespace is offered shared volumes then, for all of its pods";
    find_subscription(namespace) =
        "kubectl get rolesubscriptions -n {namespace}   # add SHARED_RESOURCES to spec.capabilities of the one for \
         the role";
    for_near_role(anew, role) = "{anew}   # if role {role} is meant";
    claim_for_named_role(delete) = "{delete}   # then claim the volume for the role that the message names: kubectl reservoir claim --help";
    claim_for_role_of_volume(anew) = "{anew}   # for the role of the volume";
    claim_near_volume(anew, volume) = "{anew}   # if volume {volume} is meant";
    see_digests() =
        "kubectl get spv -o custom-columns=NAME:.metadata.name,DIGEST:.status.digest   # the claim is bound when a volume with its digest \
         is sealed and on offer; for another digest make another claim";
    claim_content(anew) =
        "{anew}   # the digest of the volume, for good; or claim another volume, if its content is not what is wanted";
    claim_named_digest(delete) =
        "{delete}   # then claim the digest that the message names, or another volume: kubectl reservoir claim --help";
    claim_for_reading(anew) = "{anew}   # to read: nobody writes to the volume any more";
    claim_writable(anew) = "{anew}   # to read and write";
    claim_under_other_name(claim) =
        "{claim}   # the claim under another name, since the PersistentVolumeClaim is somebody else's";
    free_name_of_set(set, namespace, replicas, pvc) =
        "kubectl scale sts {set} -n {namespace} --replicas={replicas} && kubectl delete pvc {pvc} -n {namespace}   # the claim has the name \
         then: scale up again; before, set persistentVolumeClaimRetentionPolicy.whenScaled to Retain if it is Delete, which would end the \
         data of other pods";
    free_name_of_empty(pvc, namespace) =
        "kubectl delete pvc {pvc} -n {namespace}   # it has no volume, and goes after the pods that name it: the claim has the name then";
    claim_old_data(pvc, role, volume, namespace) =
        "kubectl reservoir claim {pvc} --role {role} --volume {volume} -n {namespace}   # only to have the data of the earlier \
         PersistentVolumeClaim of this name, and not an empty volume; then: kubectl reservoir why vclaim/{pvc} -n {namespace}";
    claim_data_of_ephemeral(volume, role, namespace) =
        "kubectl reservoir claim {volume} --role {role} --volume {volume} -n {namespace}   # only to have the data of the earlier pod: name \
         this claim in a pod in place of the ephemeral volume";
    create_volume(volume, role, namespace) =
        "kubectl reservoir create {volume} --role {role} --size 1Gi   # in the size that is needed; or claim a \
         volume on offer: kubectl get volumeoffers -n {namespace}";
    select_less(anew, role) = "{anew}   # the most that there is for role {role} now; or make free space for more: kubectl reservoir tree";
    create_fitting(name, role, size, labels, namespace) =
        "kubectl reservoir create {name} --role {role} --size {size}{labels}   # makes a volume that fits; or change \
         the selector: kubectl get volumeoffers -n {namespace}";
    undelete_for_claim(data, volume, until, create) =
        "kubectl reservoir undelete {data}   # volume {volume} comes back with its data, which is kept until {until}; what follows makes an \
         empty volume: {create}";
    undelete_for_pod(uid, volume, claim, until) =
        "kubectl reservoir undelete {uid}   # brings volume {volume} back with the data of claim {claim}, which is kept until {until}; then claim \
         {volume} as this command says; or name another claim";
    recover_for_claim(uid, volume, create) =
        "kubectl reservoir recover {uid}   # a disk has the data of volume {volume} without an object: apply what this prints; what follows \
         makes an empty volume: {create}";
    await_data_for_claim(disk, volume, create) =
        "kubectl reservoir why nd/{disk}   # the disk is not ready, and may have the data of volume {volume}, which has no object; what follows \
         makes an empty volume: {create}";
    subscribe_to_near_role(role, namespace, near) =
        "kubectl reservoir unsubscribe {role} -n {namespace} && kubectl reservoir subscribe {near} -n \
         {namespace}   # if role {near} is meant";
    await_offer(role, namespace) =
        "kubectl get volumeoffers -n {namespace}   # an offer comes by itself with the first volume, or the first free space of a reservation, \
         of the role; if another role is meant: kubectl reservoir unsubscribe {role} -n {namespace}";
    see_offers(namespace) = "kubectl get volumeoffers -n {namespace}   # the volumes on offer";
    ask_about_holder(object, namespace) =
        "kubectl reservoir why {object}   # or claim another volume: kubectl get volumeoffers -n \
         {namespace}";
    claim_other_volume(namespace) =
        "kubectl get volumeoffers -n {namespace}   # claim another volume, or wait for the end of the claim that \
         holds this one";
    ask_about_claims(volume) =
        "kubectl reservoir why spv/{volume}   # lists its claims; a namespace's pods can use one claim together";
    use_fewer_claims(namespace) =
        "kubectl reservoir tree -n {namespace}   # end claims that are not needed: kubectl reservoir unclaim --help";
    have_allowed(object) =
        "kubectl describe {object}   # have an administrator allow what the message quotes, a policy or a webhook of others; then it goes on \
         by itself";
    change_quota(namespace, end) =
        "kubectl get resourcequotas,limitranges -n {namespace}   # have the one that the message names changed; then {end}";
    leave_ending_namespace(namespace) =
        "kubectl get namespace {namespace} -o yaml   # it is being deleted, with all that is in it, and takes nothing new: its conditions say what \
         it waits for; for something new use another namespace";
    see_kind_out() =
        "kubectl get crds   # a kind of reservoir.dev is being deleted: it takes nothing new, and goes with its last object, which waits for \
         what is in it. Then apply the chart's crds again; what is missing is made anew";
    resize_volume(volume, size) = "the size is that of the volume: kubectl reservoir resize spv/{volume} {size}";
    have_volume_resized(volume, size) =
        "the size is that of the volume: have an administrator run: kubectl reservoir resize spv/{volume} {size}";
    resize_pvc(pvc, namespace, size) =
        "kubectl patch pvc {pvc} -n {namespace} -p \
         '{{\"spec\":{{\"resources\":{{\"requests\":{{\"storage\":\"{size}\"}}}}}}}}'   # it can only grow, if its StorageClass has \
         allowVolumeExpansion";
    let_grow(class, resize) =
        "kubectl patch storageclass {class} -p '{{\"allowVolumeExpansion\":true}}'   # an administrator's: now none of its \
         PersistentVolumeClaims can grow; then: {resize}";
    unclaim_gone(claim, namespace, volume) =
        "kubectl reservoir unclaim {claim} -n {namespace}   # its data is given up; after its last claim: kubectl delete spv/{volume}";
    claim_after_pods(unclaim, claim) = "{unclaim}   # it goes with its pods, which wait for it; then: {claim}";
    leave_lost_volume(delete) =
        "{delete}   # then claim another volume; an administrator sees what data is without an object: kubectl reservoir orphans";
    see_finalizers_of(object, finalizer) =
        "kubectl get {object} -o yaml   # it goes when finalizer {finalizer} is removed, by the program that has set it";
    end_pods(namespace) = "kubectl reservoir tree -n {namespace}   # end the pods that use the claim";
    delete_finished_pod(pod, namespace) =
        "kubectl delete pod {pod} -n {namespace}   # it has ended, and Kubernetes keeps its PersistentVolumeClaims \
         until it is deleted";
    end_process() = "kubectl get events -A --field-selector=reason=MountHeld   # end the process";

    // Pods, PersistentVolumeClaims and workloads.
    look_elsewhere(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # none of its claims waits: it waits for something else than \
         Reservoir";
    volumes_unseen(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # its claims are bound; their volumes may not be seen with your rights, and its \
         events have what it waits for; if they name a volume or its node, have an administrator run: kubectl reservoir why pod/{pod} -n \
         {namespace}";
    look_at_failed(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # it has failed, and uses no volume any more: the exit codes of its containers and its \
         events say why";
    read_end_of_log(pod, namespace, container) =
        "kubectl logs {pod} -n {namespace} -c {container} --tail=50   # it has failed, and uses no volume any more";
    claims_unseen(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # its claims may not be seen with your rights";
    end_other_pod(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # end it, or wait for its end; a Deployment needs strategy.type \
         Recreate";
    run_one_pod(pod, namespace, owner) =
        "kubectl describe pod {pod} -n {namespace}   # both are pods of {owner}, and one at a time has the volume: run one alone \
         (replicas or parallelism 1), or use a volume with spec.shared, or one for each pod (volumeClaimTemplates of a StatefulSet)";
    claim_volume_of_name(name, role, namespace) =
        "kubectl reservoir claim {name} --role {role} --volume {name} -n {namespace}   # claims the volume of this \
         name; or name another claim";
    make_claim(namespace) =
        "kubectl get volumeoffers -n {namespace}   # claim a volume on offer, or name another claim";
    pin_daemon_set(daemonset, namespace, node) =
        "kubectl patch daemonset {daemonset} -n {namespace} -p \
         '{{\"spec\":{{\"template\":{{\"spec\":{{\"nodeSelector\":{{\"kubernetes.io/hostname\":\"{node}\"}}}}}}}}}}'   # its pods run on the \
         node of the volume alone then; for every node make a volume on each, as in examples/25-every-node.yaml";
    make_pod_again(pod, namespace) = "kubectl delete pod {pod} -n {namespace}   # make it again";
    make_job_again(job, namespace) = "kubectl delete job {job} -n {namespace}   # make it again";
    change_job_template(cronjob, namespace, job) =
        "kubectl edit cronjob {cronjob} -n {namespace} && kubectl delete job {job} -n {namespace}   # its next run, or kubectl create job \
         {cronjob}-now --from=cronjob/{cronjob} -n {namespace}, has the Job made";
    change_set_template(workload, namespace, pod) =
        "kubectl edit {workload} -n {namespace} && kubectl delete pod {pod} -n {namespace}   # have its pods made";
    change_pod_template(workload, namespace) = "kubectl edit {workload} -n {namespace}   # have its pods made";
    leave_other_node(again, node) = "{again} without the other node: all pods of a volume run on its node, {node}";
    gather_volumes(namespace, node) =
        "kubectl reservoir tree -n {namespace}   # use a pod for each node, or make a volume anew in a reservation on node {node}";
    leave_own_pv(again) =
        "{again} with a claim to the volume: kubectl reservoir claim --help; and delete the PersistentVolumeClaim and the PersistentVolume, \
         which somebody else than Reservoir made";
    leave_inline_volume(again) = "{again} with a claim, or with volumes[].ephemeral of a StorageClass of Reservoir";
    rename_ephemeral_volume(again, pvc) =
        "{again} with another name for the pod or its volume: PersistentVolumeClaim {pvc} is not the pod's own; or first delete this \
         PersistentVolumeClaim, if nobody needs its data";
    uncordon(node, volume) =
        "kubectl uncordon {node}   # no new pod is placed on a cordoned node, and volume {volume} or a copy is on it";
    look_at_installation() =
        "kubectl reservoir doctor   # the pod waits for a mount, or nobody reports what it waits for";
    have_agent_looked_for(node) = "have an administrator run: kubectl reservoir doctor   # no agent of Reservoir serves node {node}";
    have_copies_looked_for(pod, namespace, volume, node) =
        "have an administrator run: kubectl reservoir why pod/{pod} -n {namespace}   # whether volume {volume} is to have a copy there; \
         without copies its pods run on node {node} alone";
    have_mount_looked_at(pod, namespace, node) =
        "have an administrator run: kubectl reservoir why pod/{pod} -n {namespace}   # it waits on node {node} for a mount, or nobody \
         reports what it waits for";
    fit_node(node, volume) =
        "kubectl describe node {node}   # volume {volume} is on it, so the pod has to fit there, or on a node with \
         a copy, if there is one: selectors, requests, tolerations";
    have_pod_fitted(pod, namespace, volume, node) =
        "have an administrator run: kubectl reservoir why pod/{pod} -n {namespace}   # volume {volume} is on node {node}, so the pod has to \
         fit there, or on a node with a copy, if there is one: selectors, requests, tolerations";
    tolerate_taint(again, node, taint) =
        "{again} with a toleration for {taint}, or have that taint of node {node} removed: a pod runs where its volume or a copy is";
    leave_spread(pod, namespace, volume) =
        "kubectl describe pod {pod} -n {namespace}   # its topologySpreadConstraints keep it off where its volume {volume} is: leave them out of its \
         template, or set whenUnsatisfiable: ScheduleAnyway there";
    leave_apart(pod, namespace, other, node) =
        "kubectl describe pod {pod} -n {namespace}   # leave the podAntiAffinity out that keeps it away from {other}, or give it a volume of its \
         own: a pod runs where its volume or a copy is, as on node {node}";
    label_topology(node, label) =
        "kubectl label node {node} {label}={node} --overwrite   # the kubelet writes it once, when the agent registers there, and pods find \
         the volumes of the node by it";
    take_startup_taint(node, taint) =
        "kubectl taint node {node} {taint}-   # its agent serves; with removeStartupTaint: true in the chart's values the controller does \
         that for each node";
    start_pod(pvc) = "start a pod that uses PersistentVolumeClaim {pvc}: its StorageClass waits for the first one";
    see_finalizers(pvc, namespace, finalizer) =
        "kubectl describe pvc {pvc} -n {namespace}   # it goes when finalizer {finalizer} is removed, by the program that has set it";
    await_new_pvc(claim, namespace) =
        "kubectl reservoir tree -n {namespace}   # it is made anew by itself, once its pods have ended; to end the use for good: kubectl \
         reservoir unclaim {claim} -n {namespace}";
    keep_data_of_ending_pvc(pv, namespace) =
        "kubectl get pv {pv} -o jsonpath='{{.spec.persistentVolumeReclaimPolicy}}'   # with Delete the data goes when the pods end; to keep \
         it, before that: kubectl patch pv {pv} -p '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Retain\"}}}}'; then end the pods: kubectl \
         reservoir tree -n {namespace}";
    keep_retiring_of_ending_pvc(volume, pv) =
        "kubectl reservoir unretire {volume} && kubectl patch pv {pv} -p \
         '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Retain\"}}}}'   # keeps the data, before the last pod ends; else end the pods";
    have_data_kept(pv) =
        "have an administrator run, before the last pod that uses it ends: kubectl patch pv {pv} -p \
         '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Retain\"}}}}'   # with the policy Delete the data goes with that pod";
    end_pods_of_pvc(pvc, namespace) = "kubectl describe pvc {pvc} -n {namespace}   # end the pods that it is used by";
    have_pod_scheduled(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # its volume is made on the node that it is placed on, and no node was chosen: \
         nodeSelector, requests, tolerations, schedulerName";
    pin_by_selector(again, node) =
        "{again} with nodeSelector kubernetes.io/hostname: {node} in place of nodeName: no scheduler sees a pod with nodeName, so none chooses \
         the node of its volume";
    await_gate(pod, namespace, gate) =
        "kubectl describe pod {pod} -n {namespace}   # no scheduler looks at it before the program that has set its scheduling gate {gate} takes \
         that away";
    find_scheduler(pod, namespace, scheduler) =
        "kubectl describe pod {pod} -n {namespace}   # no scheduler has looked at it: its spec.schedulerName is {scheduler}";
    reserve_for_pod(name, role, size, node) =
        "kubectl reservoir reserve {name} --role {role} --size {size} --node {node}   # role {role} has too little free space on the nodes \
         that the pod may run on; or let the pod run where it has";
    let_run_there(pod, namespace, node, made) =
        "kubectl describe pod {pod} -n {namespace}   # let it run on node {node}: its nodeSelector, affinity or tolerations; or make {made} \
         anew with another class";
    follow_event() = "do what the message says; Reservoir tries again by itself";
    follow_event_of_old_data() = "do what the message says to have the data of before; what follows makes an empty volume";
    have_events_looked_at(object) =
        "have an administrator run: kubectl reservoir why {object}   # about the events above, which say what the pod itself can do";
    have_event_followed(pvc, namespace, made) =
        "have an administrator run: kubectl reservoir why pvc/{pvc} -n {namespace}   # or do what the message says, if it is yours to do: \
         fields of a PersistentVolumeClaim cannot be changed, so make {made} anew";
    have_growth_made(pvc, namespace) =
        "have an administrator run: kubectl reservoir why pvc/{pvc} -n {namespace}   # or request less, if the message says how much can be had: \
         kubectl edit pvc {pvc} -n {namespace}";
    have_space_found(pod, namespace) =
        "have an administrator run: kubectl reservoir why pod/{pod} -n {namespace}   # its scheduler finds no node with a place for its \
         volume, and an administrator sees why";
    read_events(pvc, namespace) =
        "kubectl describe pvc {pvc} -n {namespace}   # its events name what Reservoir waits for";
    end_finished_pod(pod, namespace) =
        "kubectl delete pod {pod} -n {namespace}   # it has ended, and its ephemeral volume goes with it; ttlSecondsAfterFinished of a Job and \
         successfulJobsHistoryLimit of a CronJob do that by themselves";
    make_pvc_anew(delete, after, how) =
        "{delete}   # {after}then make it anew {how}: these fields cannot be changed";
    make_pod_anew(again, how) = "{again} {how}: the fields of its ephemeral volume cannot be changed";
    make_set_anew(set, namespace, delete, after, how) =
        "kubectl delete sts {set} -n {namespace} --cascade=orphan && {delete}   # {after}a StatefulSet makes it again from its \
         volumeClaimTemplates, which cannot be changed: make the StatefulSet anew {how}; its other pods go on meanwhile";
    make_class_as_said(class) =
        "kubectl get storageclass {class} -o yaml   # delete it, and make it anew as the message says";
    claim_after_lost(delete, after, pvc, namespace, role, volume) =
        "{delete}   # {after}its volume stays with its data; then: kubectl reservoir claim {pvc} --role {role} --volume {volume} -n \
         {namespace}";
    claim_after_lost_of_set(set, namespace, replicas, pvc, role, volume) =
        "kubectl scale sts {set} -n {namespace} --replicas={replicas} && kubectl delete pvc {pvc} -n {namespace}   # its volume stays with its \
         data; then: kubectl reservoir claim {pvc} --role {role} --volume {volume} -n {namespace}, and scale up again; before, set \
         persistentVolumeClaimRetentionPolicy.whenScaled to Retain if it is Delete, which would end the data of other pods";
    claim_by_name(delete, pvc, namespace, role, volume) =
        "{delete} && kubectl reservoir claim {pvc} --role {role} --volume {volume} -n {namespace}   # a VolumeClaim has the volume, and makes the PersistentVolumeClaim of its name for pods";
    leave_volume_name(pv, pvc, namespace) =
        "kubectl get pv {pv}; kubectl delete pvc {pvc} -n {namespace}   # then make it again without spec.volumeName";
    see_classes(class, made) = "kubectl get storageclasses   # none is called {class}; make it, or {made} anew";
    read_foreign_events(pvc, namespace) =
        "kubectl describe pvc {pvc} -n {namespace}   # it asks for no StorageClass of Reservoir";
    make_class_for_role(class, role, grant) =
        "kubectl get storageclass {class} -o yaml   # if role {role} is meant, delete the class, and make it anew with that role; else {grant}";
    make_class_of_driver(class, provisioner, driver) =
        "kubectl get storageclass {class} -o yaml   # its provisioner is {provisioner}, and Reservoir's is {driver}: if that is meant, \
         delete the class, and make it anew";
    read_unknown_events(pvc, namespace) =
        "kubectl describe pvc {pvc} -n {namespace}   # you may not see StorageClasses, so its class may be Reservoir's";
    force_pod(pod, namespace, disk) =
        "kubectl delete pod {pod} -n {namespace} --force --grace-period=0   # disk {disk} was declared gone, so its node unmounts nothing \
         of it any more, and its data is given up";
    await_end(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # it is ending: its grace period, its finalizers or its events say what it waits for";
    await_unmount(node) =
        "kubectl reservoir doctor   # the containers of the pod have ended, and the agent of node {node} has to unmount its volumes: is it there?";
    have_node_brought_back(pod, namespace) =
        "have an administrator run: kubectl reservoir why pod/{pod} -n {namespace}   # its node is not ready, so nothing of the pod changes \
         before the node is back";
    leave_to_writer(pod, namespace, claim) =
        "kubectl describe pod {pod} -n {namespace}   # it has claim {claim} for reading, so nothing can be made in it: have a writer make the \
         directory, or leave subPath and mounts inside of it out";
    make_pod_for_writing(pod, namespace) =
        "kubectl delete pod {pod} -n {namespace}   # it reads only, since it began before the seal was taken back: a pod that starts now can write, \
         and one without a controller has to be made again";
    never_shrinks(pvc, has) =
        "PersistentVolumeClaim {pvc} has {has}, and Kubernetes makes none smaller: make another one, and copy the data";
    read_own_crash_log(pod, namespace, container, run) =
        "kubectl logs {pod} -n {namespace} -c {container}{run} --tail=50   # its volumes are mounted: the container ends by \
         itself";
    read_failed_log(pod, namespace) =
        "kubectl logs {pod} -n {namespace} --tail=50   # the last pod that has failed; the Job goes on with another one";
    resume_job(job, namespace) =
        "kubectl patch job {job} -n {namespace} --type=merge -p '{{\"spec\":{{\"suspend\":false}}}}'   # somebody, or a program that queues \
         Jobs, has suspended it";
    read_workload(kind, name, namespace) =
        "kubectl describe {kind} {name} -n {namespace}   # its events and its template say why pods are missing";

    // Ready objects, for people who want to end them.
    retire_after_use(volume) =
        "a volume in use cannot be deleted; to destroy it after its last use: kubectl reservoir retire {volume}";
    retire_after_claims(volume) =
        "a volume with claims cannot be deleted: its claims end first; to destroy it after its last claim: kubectl reservoir retire {volume}";
    leave_copy(original) =
        "there is nothing to do; it goes by itself when spec.copies of volume {original} does not select its node any more: kubectl edit \
         spv/{original}";
    leave_volume_to_class(pvc) =
        "there is nothing to do; the volume is that of PersistentVolumeClaim {pvc}, and the reclaim policy of its \
         PersistentVolume decides about the data";
    keep_retiring(volume) =
        "there is nothing to do; volume {volume} is destroyed after its last use, whatever the reclaim policy of its PersistentVolume says: copy \
         first what is needed, or keep it: kubectl reservoir unretire {volume}";
    see_reservation(role) = "a reservation with content cannot be deleted: kubectl reservoir tree --role {role}";
    leave_reservation_to_template(template, vrole) =
        "there is nothing to do; template {template} of VolumeRole {vrole} makes the reservation anew if it is deleted: kubectl edit vrole \
         {vrole}";
    leave_static_reservation(disk) =
        "there is nothing to do; the agent makes the reservation anew if it is deleted, for as long as reservations of disk {disk} in \
         agent.disks of the chart's values have it";
    see_disk() = "a disk with reservations cannot be deleted: kubectl reservoir tree";
    unclaim(claim, namespace) =
        "there is nothing to do; to end the claim after its pods, with the data kept: kubectl reservoir unclaim \
         {claim} -n {namespace}";
    unclaim_unseen(claim, namespace) =
        "there is nothing to do; to end the claim after its pods: kubectl reservoir unclaim {claim} -n {namespace}   # the data stays, \
         unless the claim says that its volume is destroyed after its last use";
    unclaim_retiring(claim, namespace, volume) =
        "there is nothing to do; to end the claim after its pods: kubectl reservoir unclaim {claim} -n {namespace}   # volume \
         {volume} is destroyed after its last use: copy first what is needed, or keep it: kubectl reservoir unretire {volume}";
    unclaim_with_original(claim, namespace, copy, original) =
        "there is nothing to do; to end the claim after its pods: kubectl reservoir unclaim {claim} -n {namespace}   # copy {copy} goes after its \
         last use: copy first what is needed, or keep it and volume {original}, of which it is a copy: kubectl reservoir unretire {original}";
    unclaim_leaving_copy(claim, namespace, copy, original) =
        "there is nothing to do; to end the claim after its pods: kubectl reservoir unclaim {claim} -n {namespace}   # copy {copy} goes after its \
         last use; a claim to volume {original}, of which it is a copy, outlasts it";
    unclaim_ending(claim, namespace, volume) =
        "copy what is needed, then end the claim: kubectl reservoir unclaim {claim} -n {namespace}   # volume {volume} ends, \
         and serves the claims that it has until they are gone";

    // Refusals and results of other commands.
    delete_with_kubectl(object) = "objects of this kind are Kubernetes' own: kubectl delete {object}";
    delete_pvc(pvc, namespace) =
        "left alone, since its StorageClass decides about it: kubectl delete pvc {pvc} -n {namespace}";
    grant(role, verbs, receiver) = "kubectl reservoir grant {role} --verbs {verbs} --to {receiver}";
    have_granted(grant) = "have an administrator run: {grant}   # what was refused is tried again within a minute";
    revoke(role, verbs, receiver) = "kubectl reservoir revoke {role} --verbs {verbs} --from {receiver}";
    extend_subscription(subscription, namespace, patch) =
        "kubectl patch rolesubscription {subscription} -n {namespace} --type=merge -p '{patch}'";
    end_claims_of_role(role, namespace) =
        "kubectl reservoir unclaim --role {role} -n {namespace}   # ends them after their pods";
    end_claims_of_receiver(role, receiver, verbs, namespace) =
        "kubectl reservoir revoke {role} --from {receiver}{verbs} --end-claims -n {namespace}   # ends all of these claims there, also those of \
         others; or one of them: kubectl reservoir unclaim --help";
    bring_back(volume) = "kubectl reservoir undelete {volume}";
    end_unlisted(uid) =
        "kubectl reservoir erase {uid}   # ends it; or has it back: kubectl reservoir undelete {uid}";
    see_kept() = "kubectl reservoir kept   # lists all of it";
    undelete(uid, name) = "kubectl reservoir undelete {uid} --name {name}";
    claim_again(claim, role, volume, mode, namespace) =
        "kubectl reservoir claim {claim} --role {role} --volume {volume}{mode} -n {namespace}   # the claim does not come \
         back by itself; the same in each namespace that needs one";
    claim_again_unsubscribed(claim, role, volume, mode) =
        "kubectl reservoir claim {claim} --role {role} --volume {volume}{mode}   # in the namespace of its pods, with -n: the volume is \
         offered to no namespace that you may see; the claim does not come back by itself";

    // The doctor.
    have_administrator_look() = "have an administrator run: kubectl reservoir doctor";
    upgrade_kubernetes() = "upgrade the cluster: an older API server does not check rights on roles";
    install_plugin() = "install the plug-in of the installed release";
    see_older_kinds() = "kubectl reservoir doctor   # compares them with this plug-in";
    align_versions() = "install the plug-in of that version, or upgrade the chart";
    install_chart(release, namespace, owning) =
        "helm upgrade --install {release} charts/reservoir --namespace {namespace} --create-namespace \
         --reset-then-reuse-values{owning}";
    scale_up(workload, namespace) =
        "kubectl scale {workload} -n {namespace} --replicas=2   # somebody scaled it to 0";
    install_chart_anew(release, namespace, owning) =
        "helm upgrade --install {release} charts/reservoir --namespace {namespace} --create-namespace \
         --reset-then-reuse-values{owning}   # keeps the values of a release that is there, which this shows: helm list -n {namespace}; a new \
         one gets those of your installation by -f";
    read_program_log(workload, namespace) =
        "kubectl describe {workload} -n {namespace}; kubectl logs {workload} -n {namespace}";
    label_namespace(namespace) =
        "kubectl label namespace {namespace} --overwrite pod-security.kubernetes.io/enforce=privileged   # agents mount disks and \
         volumes; their pods come by themselves then";
    correct_priority(release, namespace) =
        "helm get values {release} -n {namespace} --all   # correct agent.priorityClassName or controller.priorityClassName, with helm \
         upgrade";
    correct_image(release, namespace) =
        "helm get values {release} -n {namespace} --all   # correct image.repository, image.tag or imagePullSecrets, with helm upgrade";
    correct_path(release, namespace) =
        "helm get values {release} -n {namespace} --all   # correct kubeletDir, or the path or device in agent.disks, whichever the message \
         names, with helm upgrade";
    raise_memory(release, namespace) =
        "helm get values {release} -n {namespace} --all   # raise agent.resources.limits.memory or controller.resources.limits.memory, with \
         helm upgrade";
    see_affinity(agents, namespace) =
        "kubectl get daemonset {agents} -n {namespace} -o jsonpath='{{.spec.template.spec.affinity}}'   # if it leaves the node out, change \
         agent.affinity in the chart's values";
    find_refuser(object, namespace) =
        "kubectl describe {object} -n {namespace}   # its events say what keeps its pods from being there";
    fit_pod(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # make it fit: tolerations, nodeSelector and resources in the chart's values";
    describe_pod(pod, namespace) =
        "kubectl describe pod {pod} -n {namespace}   # its events say what it waits for";
    read_crash_log(namespace, pod) = "kubectl logs -n {namespace} {pod} --previous --tail=50";
    label_node(node, key, value) =
        "kubectl label node {node} {key}={value}   # to have volumes there; or change agent.nodeSelector of the chart";
    ready_node(node) = "kubectl describe node {node}   # the taint goes when the node is Ready, and the agent comes";
    tolerate(key, effect) =
        "to have volumes there, add to agent.tolerations of the chart: {{key: {key}, operator: Exists, effect: {effect}}}";
    have_startup_taint_removed() =
        "set removeStartupTaint: true in the chart's values: agents tolerate the taint then, and the controller takes it off when an agent serves";
    run_on_node() = "to have volumes there: change agent.nodeSelector or agent.tolerations of the chart";
    have_mutating_policies() = "to have both written: set admission.mutatingPolicies of the chart to true";
    write_both() = "docs/platforms.md has what to write; Kubernetes 1.36 serves it";
    find_controller() = "kubectl get deployments -A -l app.kubernetes.io/name=reservoir   # the controller must run";
    read_about_enforcement() = "docs/semantics.md has more, under D5";
    read_about_older_pods() = "docs/operations.md has more, under \"Pods that came before their ReadOnly claim\"";
    see_orphans() =
        "kubectl reservoir orphans   # lists it; kubectl reservoir recover prints the manifests that bring it back";
    recover_orphan(word) =
        "kubectl reservoir recover {word}   # prints the manifest that brings its data back, which no volume has; to erase it, delete \
         that volume then";
    recover_as_it_is(object, uid) =
        "kubectl delete {object}   # deletes no data; then apply what this prints, as it is: kubectl reservoir recover {uid}";
    recover_listed() = "kubectl reservoir recover   # what is listed; then the others are listed";
    configure_disks() = "give the agents some: agent.disks in the chart's values";
    await_agents() = "mend first what keeps the agents from being ready: they report the disks of agent.disks in the chart's values then";
    have_rights_granted(role, verbs, receiver) =
        "if you need them, have an administrator run: kubectl reservoir grant {role} --verbs {verbs} --to {receiver}";
    have_operator_bound(user) =
        "have an administrator run: kubectl create clusterrolebinding {user}-operates \
         --clusterrole=reservoir-role-operator --user={user}   # for the kinds; the verbs on a role: kubectl reservoir \
         grant --help";
    have_user_bound(user, namespace) =
        "have an administrator run: kubectl create rolebinding {user}-claims -n {namespace} \
         --clusterrole=reservoir-role-user --user={user}   # for the kinds; the verbs on a role: kubectl reservoir grant \
         --help";
    have_view_granted() = "without this right the output is incomplete";
}

/// The command of a step, without the reason behind it.
pub fn command(step: &str) -> &str {
    step.split("   #").next().unwrap_or(step)
}
