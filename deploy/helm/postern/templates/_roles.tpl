{{/* How many fronts there are at least. */}}
{{- define "postern.frontReplicas" -}}
{{- if .Values.front.autoscaling.enabled -}}
{{- int .Values.front.autoscaling.minReplicas -}}
{{- else -}}
{{- int (default 2 .Values.front.replicas) -}}
{{- end -}}
{{- end -}}

{{/* The mailbox nodes' StatefulSets: {all: [{zone, file, replicas, pin}]}. */}}
{{- define "postern.zones" -}}
{{- $all := list -}}
{{- range $zone, $of := .Values.mailbox.zones -}}
{{- $pin := true -}}
{{- if hasKey $of "pin" }}{{ $pin = $of.pin }}{{ end -}}
{{- $all = append $all (dict "zone" $zone "file" (printf "mailbox-%s.yaml" $zone) "replicas" (int $of.replicas) "pin" $pin) -}}
{{- end -}}
{{- if not $all -}}
{{- $all = list (dict "zone" "" "file" "mailbox.yaml" "replicas" (int (default 3 .Values.mailbox.replicas)) "pin" false) -}}
{{- end -}}
{{- toYaml (dict "all" $all) -}}
{{- end -}}
