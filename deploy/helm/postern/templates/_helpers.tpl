{{- define "postern.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "postern.fullname" -}}
{{- $name := include "postern.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Who a pod is, for ever: no version in it. (root, component) */}}
{{- define "postern.selector" -}}
app.kubernetes.io/name: {{ include "postern.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of an object. (root, component) */}}
{{- define "postern.labels" -}}
{{ include "postern.selector" . }}
app.kubernetes.io/part-of: postern
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
postern-region: {{ .root.Values.name }}
{{- end -}}

{{/* The name of a Secret: as said, or FULLNAME and a suffix. (root, name, suffix) */}}
{{- define "postern.secret" -}}
{{- default (printf "%s-%s" (include "postern.fullname" .root) .suffix) .name -}}
{{- end -}}

{{/* The Secret of a role's identity. (root, role) */}}
{{- define "postern.identity" -}}
{{- include "postern.secret" (dict "root" .root "name" (get .root.Values.secrets (printf "%sIdentity" .role)) "suffix" (printf "%s-identity" .role)) -}}
{{- end -}}

{{- define "postern.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "postern.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "postern.image" -}}
{{- $registry := dig "imageRegistry" "" .Values.global -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}
{{- $name = printf "%s/%s" $registry (regexReplaceAll "^[^/]*[.:][^/]*/" $name "") -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Names of pull secrets, of this chart and of the one above. */}}
{{- define "postern.pullSecrets" -}}
{{- $names := concat .Values.imagePullSecrets (dig "imagePullSecrets" list .Values.global) | uniq -}}
{{- with $names -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "postern.podSecurity" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "postern.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The port of host:port, or of a URL. */}}
{{- define "postern.port" -}}
{{- if hasPrefix "https://" . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+/?$" . | trimSuffix "/") | default "443" -}}
{{- else if hasPrefix "http://" . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+/?$" . | trimSuffix "/") | default "80" -}}
{{- else -}}
{{- splitList ":" . | last -}}
{{- end -}}
{{- end -}}

{{/* A Service of some type. (root, name, component, service, ports) */}}
{{- define "postern.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels: {{- include "postern.labels" . | nindent 4 }}
  {{- with .service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .service.type }}
  {{- if ne .service.type "ClusterIP" }}
  externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
  {{- end }}
  {{- with .service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with .service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .service.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  selector: {{- include "postern.selector" . | nindent 4 }}
  ports:
    {{- range .ports }}
    - {name: {{ .name }}, port: {{ .port }}, targetPort: {{ default .name .target }}, protocol: TCP}
    {{- end }}
{{- end -}}
