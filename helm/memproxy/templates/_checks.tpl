{{/* Values that fit the schema one by one, and don't fit together. Each message names the keys. */}}
{{- define "memproxy.checks" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "external" -}}
  {{- if not (or $external.url $external.urlSecret.name) -}}
    {{- fail "redis.mode is external: set redis.external.url, or redis.external.urlSecret.name" -}}
  {{- end -}}
  {{- if and $external.url $external.urlSecret.name -}}
    {{- fail "redis.external.url and redis.external.urlSecret.name are both set: which one is it?" -}}
  {{- end -}}
  {{- if and $external.urlSecret.name (or $external.auth.secretName $external.sentinelAuth.secretName) -}}
    {{- fail "redis.external.auth and redis.external.sentinelAuth go with redis.external.url; the address in redis.external.urlSecret has its credentials in it" -}}
  {{- end -}}
  {{- if and $external.tls.secretName (not (hasPrefix "rediss" $external.url)) -}}
    {{- fail "redis.external.tls.secretName needs a redis.external.url that begins with rediss:// or rediss+sentinel://" -}}
  {{- end -}}
  {{- if and $external.sentinelAuth.secretName (not (contains "+sentinel://" $external.url)) -}}
    {{- fail "redis.external.sentinelAuth.secretName needs a redis.external.url that begins with redis+sentinel:// or rediss+sentinel://" -}}
  {{- end -}}
  {{- if ne (empty $external.tls.certKey) (empty $external.tls.privateKeyKey) -}}
    {{- fail "redis.external.tls.certKey and redis.external.tls.privateKeyKey go together" -}}
  {{- end -}}
{{- else -}}
  {{- if or $external.url $external.urlSecret.name -}}
    {{- fail "redis.external has an address, but redis.mode is bundled: set redis.mode to external" -}}
  {{- end -}}
{{- end -}}
{{- $root := . -}}
{{- range list "proxy" "worker" -}}
  {{- $needed := include "memproxy.stopSeconds" (list $root .) | int -}}
  {{- $given := (index $root.Values .).terminationGracePeriodSeconds | int -}}
  {{- if and $given (lt $given $needed) -}}
    {{- fail (printf "%s.terminationGracePeriodSeconds is %d, but stopping takes up to %d: preStopSeconds and drainSeconds, and shutdown_grace_s for each part of it" . $given $needed) -}}
  {{- end -}}
{{- end -}}
{{- if gt (int .Values.proxy.autoscaling.minReplicas) (int .Values.proxy.autoscaling.maxReplicas) -}}
  {{- fail "proxy.autoscaling.minReplicas is more than proxy.autoscaling.maxReplicas" -}}
{{- end -}}
{{- $scaling := .Values.worker.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
  {{- fail "worker.autoscaling.minReplicas is more than worker.autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq $scaling.by "external-metric") (not $scaling.externalMetric.name) -}}
  {{- fail "worker.autoscaling.by is external-metric: set worker.autoscaling.externalMetric.name" -}}
{{- end -}}
{{- if and (eq $scaling.by "keda") (not $scaling.keda.prometheusAddress) -}}
  {{- fail "worker.autoscaling.by is keda: set worker.autoscaling.keda.prometheusAddress" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
  {{- fail "ingress.enabled is true: set ingress.hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
  {{- fail "httpRoute.enabled is true: set httpRoute.parentRefs to the gateway" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
  {{- if hasPrefix "MEMPROXY_" .name -}}
    {{- fail (printf "extraEnv has %s: memproxy's settings belong under settings, and its keys under credentials" .name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
