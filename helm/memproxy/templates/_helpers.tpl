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

{{/* Takes a list of scheme, credentials (with their "@"), rest of the address, and options of redis-py. */}}
{{- define "memproxy.redisUrl" -}}
{{- $rest := index . 2 -}}
{{- $options := index . 3 -}}
{{- printf "%s://%s%s" (index . 0) (index . 1) $rest -}}
{{- if $options -}}{{ ternary "&" "?" (contains "?" $rest) }}{{ join "&" $options }}{{- end -}}
{{- end -}}

{{/* The environment that leads to the store. Credentials come from Secrets, and Kubernetes puts them in their place. */}}
{{- define "memproxy.redisEnv" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "bundled" -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "memproxy.redisSecretName" . }}
      key: {{ .Values.redis.bundled.auth.passwordKey }}
- name: MEMPROXY_REDIS_URL
  value: redis://default:$(REDIS_PASSWORD)@{{ include "memproxy.redisName" . }}:6379/0
{{- else if $external.urlSecret.name -}}
- name: MEMPROXY_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $external.urlSecret.name }}
      key: {{ $external.urlSecret.key }}
{{- else -}}
{{- $credentials := "" -}}
{{- with $external.auth -}}
{{- if .secretName -}}
{{- $credentials = printf "%s:$(REDIS_PASSWORD)@" (ternary "$(REDIS_USERNAME)" "default" (ne .usernameKey "")) -}}
{{- if .usernameKey }}
- name: REDIS_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .usernameKey }}
{{- end }}
- name: REDIS_PASSWORD
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
{{- $parts := splitn "://" 2 $external.url }}
- name: MEMPROXY_REDIS_URL
  value: {{ include "memproxy.redisUrl" (list $parts._0 $credentials $parts._1 $options) | quote }}
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
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
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
