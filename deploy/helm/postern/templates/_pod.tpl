{{/* A volume of a Secret. (name, secret) */}}
{{- define "postern.secretVolume" -}}
- name: {{ .name }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end -}}

{{/* The spread of a role's pods. (root, component, settings, revision) */}}
{{- define "postern.spread" -}}
{{- range $key, $when := dict "kubernetes.io/hostname" .settings.spread.host "topology.kubernetes.io/zone" .settings.spread.zone }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ $when }}
  labelSelector:
    matchLabels: {{- include "postern.selector" $ | nindent 6 }}
  {{- with $.revision }}
  matchLabelKeys: [{{ . }}]
  {{- end }}
{{- end }}
{{- end -}}

{{/*
A role's pod, from metadata on.
(root, component, settings, config: of the file; text: of all its files; labels, ports,
mounts, volumes: of this role; revision: the label that tells revisions apart)
*/}}
{{- define "postern.pod" -}}
{{- $root := .root -}}
{{- $etcd := $root.Values.etcd -}}
{{- $name := include "postern.fullname" $root -}}
metadata:
  labels: {{- include "postern.selector" . | nindent 4 }}
    postern-region: {{ $root.Values.name }}
    {{- with .labels }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- with .settings.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # A change of the files is a rollout.
    checksum/config: {{ sha256sum .text }}
    {{- with .settings.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "postern.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "postern.pullSecrets" $root }}{{ . | nindent 2 }}{{ end }}
  securityContext: {{- include "postern.podSecurity" $root | nindent 4 }}
  # Until no balancer sends anybody, or it is this node's turn; the drain; the last words.
  terminationGracePeriodSeconds: {{ add (default 0 .settings.preStopSeconds) (default 0 .settings.turn_seconds) .settings.drain_seconds 15 }}
  {{- with .settings.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .settings.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .settings.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints: {{- include "postern.spread" . | trim | nindent 4 }}
  containers:
    - name: {{ .component }}
      image: {{ include "postern.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .component }}, --config, /etc/postern/config/{{ .config }}, --name, $(POD_NAME), --advertise, $(POD_IP)]
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- with .settings.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        {{- range .ports }}
        - {name: {{ .name }}, containerPort: {{ .port }}, protocol: TCP}
        {{- end }}
        - {name: gossip, containerPort: 7946, protocol: TCP}
        - {name: gossip-udp, containerPort: 7946, protocol: UDP}
        - {name: http, containerPort: 9260, protocol: TCP}
      # Neither asks a shared service. A process that waits for etcd or for the store is
      # alive, and there is no startup probe that would kill it.
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 3
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        initialDelaySeconds: 20
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- with .settings.preStopSeconds }}
      lifecycle:
        preStop: {sleep: {seconds: {{ int . }}}}
      {{- end }}
      resources: {{- toYaml .settings.resources | nindent 8 }}
      securityContext: {{- include "postern.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/postern/config, readOnly: true}
        - {name: identity, mountPath: /etc/postern/identity, readOnly: true}
        - {name: gossip, mountPath: /etc/postern/gossip, readOnly: true}
        {{- if $etcd.global.tls }}
        - {name: etcd-global, mountPath: /etc/postern/etcd-global, readOnly: true}
        {{- end }}
        {{- if and $etcd.regional.endpoints $etcd.regional.tls }}
        - {name: etcd-regional, mountPath: /etc/postern/etcd-regional, readOnly: true}
        {{- end }}
        {{- if eq $root.Values.log.addresses "hashed" }}
        - {name: log, mountPath: /etc/postern/log, readOnly: true}
        {{- end }}
        {{- with .mounts }}{{ . | nindent 8 }}{{ end }}
        - {name: state, mountPath: /var/lib/postern/state}
  volumes:
    - name: config
      configMap: {name: {{ $name }}-{{ .component }}, defaultMode: 0444}
    {{- include "postern.secretVolume" (dict "name" "identity" "secret" (include "postern.identity" (dict "root" $root "role" .component))) | nindent 4 }}
    {{- include "postern.secretVolume" (dict "name" "gossip" "secret" (include "postern.secret" (dict "root" $root "name" $root.Values.secrets.gossip "suffix" "gossip"))) | nindent 4 }}
    {{- if $etcd.global.tls }}
    {{- include "postern.secretVolume" (dict "name" "etcd-global" "secret" (include "postern.secret" (dict "root" $root "name" $etcd.global.secret "suffix" "etcd"))) | nindent 4 }}
    {{- end }}
    {{- if and $etcd.regional.endpoints $etcd.regional.tls }}
    {{- include "postern.secretVolume" (dict "name" "etcd-regional" "secret" (include "postern.secret" (dict "root" $root "name" $etcd.regional.secret "suffix" "etcd-regional"))) | nindent 4 }}
    {{- end }}
    {{- if eq $root.Values.log.addresses "hashed" }}
    {{- include "postern.secretVolume" (dict "name" "log" "secret" (include "postern.secret" (dict "root" $root "name" $root.Values.secrets.log "suffix" "log"))) | nindent 4 }}
    {{- end }}
    {{- with .volumes }}{{ . | nindent 4 }}{{ end }}
    - name: state
      emptyDir: {sizeLimit: 1Gi}
{{- end -}}

{{/* A budget for disruptions, where there is more than one pod. (root, component, pods) */}}
{{- define "postern.budget" -}}
{{- if gt (int .pods) 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "postern.fullname" .root }}-{{ .component }}
  labels: {{- include "postern.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "postern.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}
