{{/* Name of every object. Short enough that suffixes fit, and that `<name>.<namespace>.svc` is a DNS name. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: finetune-operator
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image reference; takes (dict "image" … "chart" .Chart). */}}
{{- define "finetune-operator.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.host" -}}
{{- printf "%s.%s.svc" (include "finetune-operator.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "finetune-operator.tlsSecret" -}}
{{- default (printf "%s-tls" (include "finetune-operator.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* What the operator may do in the namespaces of jobs. Every resource of controller/kube.py, and no Secrets. */}}
{{- define "finetune-operator.jobRules" -}}
- apiGroups: [finetune-operator.dev]
  resources: [finetunejobs]
  # delete: run.ttlAfterFinished
  verbs: [get, list, watch, delete]
- apiGroups: [finetune-operator.dev]
  resources: [finetunejobs/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
# How much the namespace may take, and its policy in annotations.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [get, list]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Where Kueue is installed: what its queues admit.
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues, clusterqueues]
  verbs: [get]
- apiGroups: [kueue.x-k8s.io]
  resources: [resourceflavors]
  verbs: [get, list]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, list, patch]
{{- end -}}

{{- define "finetune-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "finetune-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "finetune-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "finetune-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
