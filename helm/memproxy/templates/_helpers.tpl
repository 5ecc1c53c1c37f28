{{- define "memproxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "memproxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "memproxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "memproxy.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: what selectors select by. Takes a list of root and component. */}}
{{- define "memproxy.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "memproxy.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "memproxy.labels" -}}
{{- $root := index . 0 -}}
{{ include "memproxy.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: memproxy
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "memproxy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "memproxy.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image's full name. Takes a list of the image's values and the tag for an empty one. */}}
{{- define "memproxy.imageName" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "memproxy.image" -}}
{{- include "memproxy.imageName" (list .Values.image .Chart.AppVersion) -}}
{{- end -}}

{{/* Pod Security "restricted". Takes the number of user and group. */}}
{{- define "memproxy.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "memproxy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods run. Takes a component's values. */}}
{{- define "memproxy.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Takes a list of root, component and the component's values. */}}
{{- define "memproxy.topologySpread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $spread := (index . 2).topologySpread -}}
{{- if $spread.enabled }}
topologySpreadConstraints:
  {{- range $spread.topologyKeys }}
  - maxSkew: {{ $spread.maxSkew }}
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "memproxy.selectorLabels" (list $root $component) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{/* A value as the environment has it: numbers without exponents. */}}
{{- define "memproxy.envValue" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "memproxy.graceSeconds" -}}
{{- dig "shutdown_grace_s" 30 .Values.settings | float64 | ceil | int -}}
{{- end -}}

{{/*
What a pod needs to stop. The proxy: its load balancers' delay, open answers, then what they left to record; where it
learns too, its running jobs between the two. A worker: its running jobs, then the rest. Takes a list of root and
component.
*/}}
{{- define "memproxy.stopSeconds" -}}
{{- $root := index . 0 -}}
{{- $grace := include "memproxy.graceSeconds" $root | int -}}
{{- if eq (index . 1) "proxy" -}}
{{- add $root.Values.proxy.preStopSeconds $root.Values.proxy.drainSeconds (mul (ternary 2 3 $root.Values.worker.enabled) $grace) -}}
{{- else -}}
{{- mul 2 $grace -}}
{{- end -}}
{{- end -}}

{{/* Takes a list of root, component and the component's values. */}}
{{- define "memproxy.terminationSeconds" -}}
{{- $chosen := (index . 2).terminationGracePeriodSeconds | int -}}
{{- default (add (include "memproxy.stopSeconds" (list (index . 0) (index . 1)) | int) 10) $chosen -}}
{{- end -}}

{{/* The bundled Redis, by its parts. */}}
{{- define "memproxy.redisName" -}}
{{- printf "%s-redis" (include "memproxy.fullname" .) -}}
{{- end -}}

{{- define "memproxy.redisSecretName" -}}
{{- default (include "memproxy.redisName" .) .Values.redis.bundled.auth.secretName -}}
{{- end -}}

{{/* The port of the store; empty where the address does not tell: it is in a Secret, or Sentinels know it. */}}
{{- define "memproxy.redisPort" -}}
{{- if eq .Values.redis.mode "bundled" -}}redis
{{- else if regexMatch "^rediss?://" .Values.redis.external.url -}}
{{- $host := regexFind "^rediss?://[^/?]+" .Values.redis.external.url -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default "6379" -}}
{{- end -}}
{{- end -}}

{{/* Takes a list of an address and options of redis-py. */}}
{{- define "memproxy.redisUrl" -}}
{{- $options := index . 1 -}}
{{- index . 0 -}}
{{- if $options -}}{{ ternary "&" "?" (contains "?" (index . 0)) }}{{ join "&" $options }}{{- end -}}
{{- end -}}

{{/* The environment that leads to the store. Credentials come from Secrets, and Kubernetes puts them in their place. */}}
{{- define "memproxy.redisEnv" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "bundled" -}}
- name: MEMPROXY_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "memproxy.redisSecretName" . }}
      key: {{ .Values.redis.bundled.auth.passwordKey }}
- name: MEMPROXY_REDIS_URL
  value: redis://{{ include "memproxy.redisName" . }}:6379/0
{{- else if $external.urlSecret.name -}}
- name: MEMPROXY_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $external.urlSecret.name }}
      key: {{ $external.urlSecret.key }}
{{- else -}}
{{- with $external.auth -}}
{{- if .secretName -}}
{{- if .usernameKey }}
- name: MEMPROXY_REDIS_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .usernameKey }}
{{- end }}
- name: MEMPROXY_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- $options := list -}}
{{- with $external.sentinelAuth -}}
{{- if .secretName -}}
{{- if .usernameKey -}}{{- $options = append $options "sentinel_username=$(SENTINEL_USERNAME)" -}}{{- end -}}
{{- $options = append $options "sentinel_password=$(SENTINEL_PASSWORD)" -}}
{{- if .usernameKey }}
- name: SENTINEL_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .usernameKey }}
{{- end }}
- name: SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- with $external.tls -}}
{{- if .secretName -}}
{{- if .caKey -}}{{- $options = append $options "ssl_ca_certs=/etc/memproxy/redis-tls/ca.crt" -}}{{- end -}}
{{- if .certKey -}}
{{- $options = append $options "ssl_certfile=/etc/memproxy/redis-tls/tls.crt" -}}
{{- $options = append $options "ssl_keyfile=/etc/memproxy/redis-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- end }}
- name: MEMPROXY_REDIS_URL
  value: {{ include "memproxy.redisUrl" (list $external.url $options) | quote }}
{{- end }}
{{- end -}}

{{/* What the containers of proxy and worker have in common. */}}
{{- define "memproxy.env" -}}
{{ include "memproxy.redisEnv" . | trim }}
{{- range $name, $source := .Values.credentials }}
- name: MEMPROXY_{{ upper $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $source.secretName }}
      key: {{ $source.secretKey }}
{{- end }}
{{- with include "memproxy.tracingEnv" . | trim }}
{{ . }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where traces go, and what they say of the pod. */}}
{{- define "memproxy.tracingEnv" -}}
{{- if .Values.tracing.endpoint -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .Values.tracing.endpoint | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ include "memproxy.fullname" . }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ include "memproxy.envValue" .Values.tracing.sampleRatio | quote }}
{{- with .Values.tracing.headers }}
{{- if .secretName }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .secretKey }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The port of the collector; empty without one. */}}
{{- define "memproxy.collectorPort" -}}
{{- with .Values.tracing.endpoint -}}
{{- $host := regexFind "^https?://[^/]+" . -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https" .)) -}}
{{- end -}}
{{- end -}}

{{- define "memproxy.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if or .Values.toolsToml .Values.modelsToml }}
- name: files
  mountPath: /etc/memproxy/files
  readOnly: true
{{- end }}
{{- if include "memproxy.usesRedisTls" . }}
- name: redis-tls
  mountPath: /etc/memproxy/redis-tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "memproxy.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if or .Values.toolsToml .Values.modelsToml }}
- name: files
  configMap:
    name: {{ include "memproxy.fullname" . }}-files
{{- end }}
{{- if include "memproxy.usesRedisTls" . }}
{{- with .Values.redis.external.tls }}
- name: redis-tls
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      {{- if .caKey }}
      - key: {{ .caKey }}
        path: ca.crt
      {{- end }}
      {{- if .certKey }}
      - key: {{ .certKey }}
        path: tls.crt
      - key: {{ .privateKeyKey }}
        path: tls.key
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "memproxy.usesRedisTls" -}}
{{- if and (eq .Values.redis.mode "external") .Values.redis.external.tls.secretName -}}yes{{- end -}}
{{- end -}}

{{/* New pods when the configuration changes. */}}
{{- define "memproxy.configChecksum" -}}
checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
{{- end -}}




{{/* The rule that lets pods reach the store. Where its port is not known, every one is open. */}}
{{- define "memproxy.redisEgress" -}}
{{- if eq .Values.redis.mode "bundled" -}}
- ports:
    - {port: redis, protocol: TCP}
  to:
    - podSelector:
        matchLabels:
          {{- include "memproxy.selectorLabels" (list . "redis") | nindent 10 }}
{{- else if include "memproxy.redisPort" . -}}
- ports:
    - {port: {{ include "memproxy.redisPort" . }}, protocol: TCP}
{{- else if not (hasPrefix "unix" .Values.redis.external.url) -}}
- ports:
    - {port: 1, endPort: 65535, protocol: TCP}
{{- end -}}
{{- end -}}

{{/* The ports of the model servers that settings name. */}}
{{- define "memproxy.modelPorts" -}}
{{- $ports := list -}}
{{- range $name, $address := merge (dict) .Values.settings (dict "upstream_base_url" "https://") -}}
{{- if and (hasSuffix "_base_url" $name) $address -}}
{{- $host := regexFind "^https?://[^/]+" $address -}}
{{- $usual := ternary "443" "80" (hasPrefix "https" $address) -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" $host | trimPrefix ":" | default $usual) -}}
{{- end -}}
{{- end -}}
{{- join " " (uniq $ports) -}}
{{- end -}}

{{/* Label matchers for the series of this release: what the ServiceMonitors make of the Services' names. */}}
{{- define "memproxy.seriesSelector" -}}
{{- $name := include "memproxy.fullname" . -}}
{{- default (printf "job=~\"%s(-worker)?\", namespace=%q" $name .Release.Namespace) .Values.metrics.selector -}}
{{- end -}}

{{- define "memproxy.proxySelector" -}}
{{- default (printf "job=%q, namespace=%q" (include "memproxy.fullname" .) .Release.Namespace) .Values.metrics.selector -}}
{{- end -}}

{{/* All turns that are not done with. Every process reports the same numbers, hence the maximum. */}}
{{- define "memproxy.queueLength" -}}
sum(max by (stage, state) (memproxy_queued_turns{ {{- include "memproxy.seriesSelector" . -}} , state=~"waiting|pending"}))
{{- end -}}
