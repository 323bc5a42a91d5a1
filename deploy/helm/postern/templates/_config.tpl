{{/* The region's file, with the paths that the pods have. */}}
{{- define "postern.region" -}}
{{- $storage := dict -}}
{{- range $key, $value := deepCopy .Values.storage -}}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $storage $key $value }}{{ end -}}
{{- end -}}
{{- range $section, $keys := dict "s3" (list "ca" "credentials_file") "encryption" (list "key_file") -}}
{{- $in := get $storage $section -}}
{{- range $key := $keys -}}
{{- if and $in (get $in $key) }}{{ $_ := set $in $key (printf "/etc/postern/storage/%s" (base (get $in $key))) }}{{ end -}}
{{- end -}}
{{- end -}}
name: {{ .Values.name }}
title: {{ .Values.title | quote }}
hostname: {{ .Values.hostname }}
shards: {{ int .Values.shards }}
cross_region: {{ .Values.cross_region }}
gateway: {{ .Values.gateway | quote }}
storage: {{- toYaml $storage | nindent 2 }}
{{- end -}}

{{/* The Secret's keys that the region's file names: a comma-separated list. */}}
{{- define "postern.storageFiles" -}}
{{- $files := list -}}
{{- with .Values.storage.s3 -}}
{{- with .ca }}{{ $files = append $files (base .) }}{{ end -}}
{{- with .credentials_file }}{{ $files = append $files (base .) }}{{ end -}}
{{- end -}}
{{- with .Values.storage.encryption -}}
{{- with .key_file }}{{ $files = append $files (base .) }}{{ end -}}
{{- end -}}
{{- join "," (uniq $files) -}}
{{- end -}}

{{/* How to reach one etcd. (of, path) */}}
{{- define "postern.etcd" -}}
endpoints: {{ toJson .of.endpoints }}
{{- if .of.tls }}
tls: {ca: {{ .path }}/ca.crt, cert: {{ .path }}/tls.crt, key: {{ .path }}/tls.key}
{{- end }}
{{- end -}}

{{/* What the files of all roles begin with. (root, role, settings) */}}
{{- define "postern.process" -}}
{{- $etcd := .root.Values.etcd -}}
role: {{ .role }}
# Each pod has its own, by --name.
name: {{ include "postern.fullname" .root }}-{{ .role }}
region: region.yaml
etcd:
  global: {{- include "postern.etcd" (dict "of" $etcd.global "path" "/etc/postern/etcd-global") | nindent 4 }}
  {{- if $etcd.regional.endpoints }}
  regional: {{- include "postern.etcd" (dict "of" $etcd.regional "path" "/etc/postern/etcd-regional") | nindent 4 }}
  {{- else }}
  regional: {{- include "postern.etcd" (dict "of" $etcd.global "path" "/etc/postern/etcd-global") | nindent 4 }}
  {{- end }}
tls: {ca: /etc/postern/identity/ca.crt, cert: /etc/postern/identity/tls.crt, key: /etc/postern/identity/tls.key}
gossip:
  bind: ":7946"
  key_file: /etc/postern/gossip/gossip.key
  seeds: ["{{ include "postern.fullname" .root }}-gossip:7946"]
http: {listen: ":9260"}
state_dir: /var/lib/postern/state
drain_seconds: {{ int .settings.drain_seconds }}
log:
  addresses: {{ .root.Values.log.addresses }}
  {{- if eq .root.Values.log.addresses "hashed" }}
  key_file: /etc/postern/log/log.key
  {{- end }}
{{- end -}}

{{- define "postern.frontConfig" -}}
{{- $front := .Values.front -}}
{{ include "postern.process" (dict "root" . "role" "front" "settings" $front) }}
front:
  certificates:
    {{- range $i, $_ := prepend $front.certificates "" }}
    - {cert: /etc/postern/pop-{{ $i }}/tls.crt, key: /etc/postern/pop-{{ $i }}/tls.key}
    {{- end }}
  pop3s: {listen: ":8995"}
  {{- with $front.pop3s_proxy.networks }}
  pop3s_proxy: {listen: ":9995", networks: {{ toJson . }}}
  {{- end }}
  {{- if $front.pop3 }}
  pop3: {listen: ":8110"}
  {{- end }}
  {{- with $front.pop3_proxy.networks }}
  pop3_proxy: {listen: ":9110", networks: {{ toJson . }}}
  {{- end }}
  {{- with $front.sasl }}
  sasl: {{ toJson . }}
  {{- end }}
  {{- if $front.anonymous }}
  anonymous: true
  {{- end }}
  {{- with $front.limits }}
  limits: {{- toYaml . | nindent 4 }}
  {{- end }}
  gateway: {listen: ":9950"}
{{- end -}}

{{- define "postern.intakeConfig" -}}
{{- $intake := .Values.intake -}}
{{ include "postern.process" (dict "root" . "role" "intake" "settings" $intake) }}
intake:
  lmtp:
    listen: ":8024"
    cert: /etc/postern/pop-0/tls.crt
    key: /etc/postern/pop-0/tls.key
    {{- with $intake.networks }}
    networks: {{ toJson . }}
    {{- end }}
    {{- if $intake.clientCertificates }}
    client_ca: /etc/postern/gateways/ca.crt
    {{- end }}
  spool: /var/lib/postern/spool
  max_message_mib: {{ int $intake.max_message_mib }}
{{- end -}}

{{/* (root, zone) */}}
{{- define "postern.mailboxConfig" -}}
{{- $mailbox := .root.Values.mailbox -}}
{{ include "postern.process" (dict "root" .root "role" "mailbox" "settings" $mailbox) }}
mailbox:
  grpc: {listen: ":9940"}
  {{- with .zone }}
  zone: {{ . | quote }}
  {{- end }}
  cache_mib: {{ int $mailbox.cache_mib }}
  {{- with $mailbox.turn_seconds }}
  turn_seconds: {{ int . }}
  {{- end }}
{{- end -}}
