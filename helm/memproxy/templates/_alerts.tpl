{{/* The alerts. Takes the label matchers that select the series of all processes, and of the proxies alone. */}}
{{- define "memproxy.alerts" -}}
{{- $all := index . 0 -}}
{{- $proxies := index . 1 -}}
- alert: MemproxyDown
  expr: absent(up{ {{- $proxies -}} } == 1)
  for: 2m
  labels: {severity: critical}
  annotations:
    summary: No memproxy answers
    description: Prometheus reaches no memproxy, so agents behind it probably can't reach their model provider.
- alert: MemproxyRequestsFail
  expr: >-
    sum(rate(memproxy_requests_total{ {{- $all -}} , status="5xx"}[5m]))
    / sum(rate(memproxy_requests_total{ {{- $all -}} }[5m])) > 0.05
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: More than 5 % of requests fail
    description: >-
      {{ `{{ $value | humanizePercentage }}` }} of requests are answered with 5xx. 502 and 504 say that the provider can't
      be reached or stays silent; everything else comes from the provider itself.
- alert: MemproxyWithoutMemory
  expr: >-
    sum(rate(memproxy_degraded_total{ {{- $all -}} }[5m]))
    / sum(rate(memproxy_requests_total{ {{- $all -}} , kind=~"memory|plain"}[5m])) > 0.05
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: More than 5 % of requests go on without memory
    description: >-
      Look-ups miss their deadlines, or the store is away. Agents get their answers, but without what was remembered. Look
      at the store first, then at the processor time of the pods.
- alert: MemproxyTurnsWait
  expr: sum(memproxy_turns_waiting{ {{- $all -}} }) > 0
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: Finished turns wait for the store
    description: >-
      {{ `{{ $value }}` }} turns are kept in the pods' memory because the store does not take them. Beyond record_buffer
      in each pod, or when a pod ends, they are lost.
- alert: MemproxyTurnsLost
  expr: sum(increase(memproxy_turns_lost_total{ {{- $all -}} }[10m])) > 0
  labels: {severity: critical}
  annotations:
    summary: Turns were lost
    description: >-
      {{ `{{ $value | humanize }}` }} turns of the last ten minutes were neither stored nor learned from: the store was
      away for too long, or refused them. The log of the pods says why.
- alert: MemproxySlow
  expr: >-
    histogram_quantile(0.95, sum by (le) (rate(memproxy_added_seconds_bucket{ {{- $all -}} }[5m]))) > 0.5
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: memproxy adds more than half a second
    description: >-
      One request in twenty waits {{ `{{ $value | humanizeDuration }}` }} or longer in memproxy before it goes to the
      provider. It takes milliseconds when the store is well and the pods have processor time.
- alert: MemproxyProviderFails
  expr: >-
    sum(rate(memproxy_upstream_errors_total{ {{- $all -}} , kind=~"connect|timeout|broken|cut_off"}[5m]))
    / sum(rate(memproxy_requests_total{ {{- $all -}} , kind=~"memory|plain|passed"}[5m])) > 0.05
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: The provider can't be reached, or breaks off
    description: >-
      {{ `{{ $value | humanizePercentage }}` }} of requests get no answer, or only the beginning of one. Agents get 502,
      504, or a stream without an end. The dashboard tells the kinds apart.
- alert: MemproxyStoreAway
  expr: max(memproxy_store_away{ {{- $all -}} }) > 0
  for: 5m
  labels: {severity: warning}
  annotations:
    summary: The store does not answer
    description: >-
      A pod has stopped asking the store but for one try a second. Its requests go on without memory, and their turns
      wait in the pod's memory.
- alert: MemproxyStoreFull
  expr: max(memproxy_store_memory_share{ {{- $all -}} }) > 0.9
  for: 5m
  labels: {severity: critical}
  annotations:
    summary: The store is nearly full
    description: >-
      {{ `{{ $value | humanizePercentage }}` }} of Redis' maxmemory is in use. At its limit Redis refuses writes: nothing
      is stored or learned any more, and requests go on without memory.
- alert: MemproxyLearningBehind
  expr: max by (stage) (memproxy_queue_oldest_seconds{ {{- $all -}} }) > 900
  for: 10m
  labels: {severity: warning}
  annotations:
    summary: Learning is behind
    description: >-
      The oldest turn of the stage {{ `{{ $labels.stage }}` }} has waited for {{ `{{ $value | humanizeDuration }}` }}. Either
      the workers are too few, or the model can't be reached; their log says which.
- alert: MemproxyTurnsGivenUp
  expr: max by (stage) (delta(memproxy_queued_turns{ {{- $all -}} , state="dead"}[1h])) > 0
  labels: {severity: warning}
  annotations:
    summary: Turns were given up
    description: >-
      {{ `{{ $value | humanize }}` }} turns of the stage {{ `{{ $labels.stage }}` }} were laid aside in the last hour, with
      the reason: every attempt to learn from them failed.
{{- end -}}
