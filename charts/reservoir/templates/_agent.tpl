{{- /* The agents of a pool, with the root context as `root`, the pool as `pool`, and the pools before it as `earlier`. */ -}}
{{- define "reservoir.agents" -}}
{{- $root := .root }}
{{- $pool := .pool }}
{{- $earlier := .earlier }}
{{- $name := include "reservoir.agentName" $pool }}
{{- with $root }}
{{- $hasMount := false }}
{{- $hasDevice := false }}
{{- $hasBtrfs := false }}
{{- $hasQuota := false }}
{{- $hasGroup := false }}
{{- $adoptRoots := list }}
{{- range $pool.disks }}
{{- if eq (.kind | default "Path") "Mount" }}{{ $hasMount = true }}{{ end }}
{{- if eq (.backing | default "") "Btrfs" }}{{ $hasBtrfs = true }}{{ end }}
{{- if or (eq (.kind | default "Path") "Block") .match }}{{ $hasDevice = true }}{{ end }}
{{- if eq (.backing | default "") "Quota" }}{{ $hasQuota = true }}{{ end }}
{{- if eq (.backing | default "") "Lvm" }}{{ $hasGroup = true }}{{ end }}
{{- $adoptRoots = concat $adoptRoots (.adoptRoots | default list) | uniq }}
{{- end }}
{{- /* Directories of the node in which disks are looked for. A file system that is mounted later is seen if the directory above
its mount point is shown to the agent; one that holds the kubelet's directory would show all of the kubelet's mounts twice. */}}
{{- $shared := list }}
{{- $places := list }}
{{- range $pool.disks }}
{{- $kind := .kind | default "Path" }}
{{- if or (eq $kind "Block") (eq (.backing | default "") "Lvm") }}
{{- else if and (hasKey . "requireMount") (not .requireMount) }}
{{- $shared = append $shared .path | uniq }}
{{- else }}
{{- $above := dir .path }}
{{- $holdsKubelet := hasPrefix (printf "%s/" $above) (printf "%s/" $root.Values.kubeletDir) }}
{{- $places = append $places (or (eq $above "/") $holdsKubelet | ternary .path $above) | uniq }}
{{- end }}
{{- end }}
{{- /* A directory is mounted once, so that later mounts in it are seen if one of its uses needs that. */}}
{{- $made := $shared }}
{{- range concat $places $adoptRoots }}{{ $shared = without $shared . }}{{ end }}
{{- range $places }}{{ $adoptRoots = without $adoptRoots . }}{{ end }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-disks
  namespace: {{ .Release.Namespace }}
  labels: {{- include "reservoir.labels" . | nindent 4 }}
data:
  agent.yaml: |
    stateDir: {{ .Values.agent.stateDir }}
    {{- with .Values.agent.scrub }}
    scrub: {{- toYaml . | nindent 6 }}
    {{- end }}
    disks: {{- toYaml $pool.disks | nindent 6 }}
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ $name }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "reservoir.labels" . | nindent 4 }}
    app.kubernetes.io/component: agent
  {{- with .Values.commonAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  updateStrategy:
    rollingUpdate: { maxUnavailable: {{ .Values.agent.maxUnavailable }} }
  selector:
    matchLabels:
      app.kubernetes.io/instance: {{ .Release.Name }}
      app.kubernetes.io/component: agent
      {{- with $pool.name }}
      reservoir.dev/pool: {{ . }}
      {{- end }}
  template:
    metadata:
      labels: {{- include "reservoir.labels" . | nindent 8 }}
        app.kubernetes.io/component: agent
        {{- with $pool.name }}
        reservoir.dev/pool: {{ . }}
        {{- end }}
        {{- with .Values.agent.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/disks: {{ toYaml (list $pool.disks .Values.agent.scrub) | sha256sum }}
        {{- with .Values.agent.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: reservoir-agent
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- if or .Values.agent.hostPID $hasMount $hasDevice $hasBtrfs $hasQuota $adoptRoots }}
      # Users of an undivided disk, a subvolume or a directory are seen in the node's processes (X3). Messages name them (F3).
      hostPID: true
      {{- end }}
      priorityClassName: {{ .Values.agent.priorityClassName | quote }}
      imagePullSecrets: {{- toYaml .Values.imagePullSecrets | nindent 8 }}
      nodeSelector: {{- mergeOverwrite (dict "kubernetes.io/os" "linux") .Values.agent.nodeSelector ($pool.nodeSelector | default dict) | toYaml | nindent 8 }}
      affinity: {{- include "reservoir.agentAffinity" (dict "affinity" .Values.agent.affinity "earlier" $earlier) | nindent 8 }}
      {{- $tolerations := .Values.agent.tolerations }}
      {{- if .Values.removeStartupTaint }}
      {{- $tolerations = append $tolerations (dict "key" "reservoir.dev/agent-not-ready" "operator" "Exists") }}
      {{- end }}
      tolerations: {{- toYaml $tolerations | nindent 8 }}
      containers:
        - name: agent
          image: {{ include "reservoir.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - agent
            - --kubelet-dir={{ .Values.kubeletDir }}
            - --nri-socket={{ .Values.nriDir }}/nri.sock
            - --measure-seconds={{ .Values.agent.measureSeconds }}
            {{- if .Values.agent.copies.enabled }}
            - --copies-port={{ .Values.agent.copies.port }}
            {{- end }}
          env:
            - { name: RUST_LOG, value: {{ .Values.logLevel | quote }} }
            - { name: RESERVOIR_LOG_JSON, value: {{ .Values.logJson | quote }} }
            # Many threads that each work for a moment: arenas of their own would keep what they needed then.
            - { name: MALLOC_ARENA_MAX, value: "1" }
            - { name: NODE_NAME, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
            {{- if .Values.agent.copies.enabled }}
            - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
            {{- end }}
          ports:
            - { name: metrics, containerPort: 8081 }
            {{- if .Values.agent.copies.enabled }}
            - { name: copies, containerPort: {{ .Values.agent.copies.port }} }
            {{- end }}
          livenessProbe: { httpGet: { path: /healthz, port: metrics }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }
          readinessProbe: { httpGet: { path: /readyz, port: metrics }, periodSeconds: 5, timeoutSeconds: 5 }
          resources: {{- toYaml .Values.agent.resources | nindent 12 }}
          # It mounts file systems and makes loop devices, for the node and not for itself.
          securityContext:
            privileged: true
            runAsUser: 0
            runAsGroup: 0
            readOnlyRootFilesystem: true
          volumeMounts:
            - { name: config, mountPath: /etc/reservoir, readOnly: true }
            # Mounts made here are the node's, and outlive this pod (M5).
            - { name: kubelet, mountPath: {{ .Values.kubeletDir }}, mountPropagation: Bidirectional }
            - { name: nri, mountPath: {{ .Values.nriDir }} }
            {{- range $i, $path := $shared }}
            - { name: shared-{{ $i }}, mountPath: {{ $path }} }
            {{- end }}
            {{- range $i, $path := $places }}
            # Later mounts there are seen here, too.
            - { name: disks-{{ $i }}, mountPath: {{ $path }}, mountPropagation: HostToContainer }
            {{- end }}
            {{- range $i, $root := $adoptRoots }}
            - { name: adopt-{{ $i }}, mountPath: {{ $root }}, mountPropagation: HostToContainer }
            {{- end }}
            {{- if or $hasDevice $hasGroup }}
            - { name: dev, mountPath: /dev }
            {{- end }}
            {{- if $hasGroup }}
            # The locks of the node's LVM, and udev's data of the node's devices.
            - { name: lvm-locks, mountPath: /run/lock/lvm }
            # /etc/lvm may be missing, and nobody can make it where /etc is read-only.
            - { name: node-etc, mountPath: /run/node/etc, readOnly: true }
            {{- end }}
            {{- if $hasDevice }}
            - { name: state, mountPath: {{ .Values.agent.stateDir }} }
            {{- end }}
            - { name: tmp, mountPath: /tmp }
      volumes:
        - { name: config, configMap: { name: {{ $name }}-disks } }
        - { name: kubelet, hostPath: { path: {{ .Values.kubeletDir }}, type: Directory } }
        # A node without NRI gets an empty directory; the runtime puts its socket there when NRI is enabled later.
        - { name: nri, hostPath: { path: {{ .Values.nriDir }}, type: DirectoryOrCreate } }
        {{- range $i, $path := $shared }}
        - { name: shared-{{ $i }}, hostPath: { path: {{ $path }}, type: DirectoryOrCreate } }
        {{- end }}
        {{- /* Without a type, a missing directory does not keep the pod, and the other disks with it, from starting (D6). */}}
        {{- range $i, $path := $places }}
        - { name: disks-{{ $i }}, hostPath: { path: {{ $path }}{{ if has $path $made }}, type: DirectoryOrCreate{{ end }} } }
        {{- end }}
        {{- range $i, $root := $adoptRoots }}
        - { name: adopt-{{ $i }}, hostPath: { path: {{ $root }}, type: DirectoryOrCreate } }
        {{- end }}
        {{- if or $hasDevice $hasGroup }}
        - { name: dev, hostPath: { path: /dev, type: Directory } }
        {{- end }}
        {{- if $hasGroup }}
        - { name: lvm-locks, hostPath: { path: /run/lock/lvm, type: DirectoryOrCreate } }
        - { name: node-etc, hostPath: { path: /etc, type: Directory } }
        {{- end }}
        {{- if $hasDevice }}
        - { name: state, hostPath: { path: {{ .Values.agent.stateDir }}, type: DirectoryOrCreate } }
        {{- end }}
        - { name: tmp, emptyDir: {} }
{{- end }}
{{- end -}}

{{- define "reservoir.agentName" -}}
reservoir-agent{{ with .name }}-{{ . }}{{ end }}
{{- end -}}

{{- /* The affinity of agents, for nodes that none of the earlier pools selects. A node is outside a pool if it lacks one of the
pool's labels, and terms of a node affinity are alternatives: so there is a term for each choice of one label of each pool. */ -}}
{{- define "reservoir.agentAffinity" -}}
{{- $affinity := deepCopy .affinity }}
{{- if .earlier }}
{{- $terms := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list dict) $affinity }}
{{- range $pool := .earlier }}
{{- $choices := list }}
{{- range $term := $terms }}
{{- range $key, $value := $pool.nodeSelector }}
{{- $outside := dict "key" $key "operator" "NotIn" "values" (list $value) }}
{{- $expressions := append ($term.matchExpressions | default list) $outside }}
{{- $choices = append $choices (merge (dict "matchExpressions" $expressions) $term) }}
{{- end }}
{{- end }}
{{- $terms = $choices }}
{{- end }}
{{- $node := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $affinity = mergeOverwrite $affinity (dict "nodeAffinity" $node) }}
{{- end }}
{{- toYaml $affinity }}
{{- end -}}
