// Package kube holds what the chart renders, and the recipe for etcd, against Kubernetes's
// own types: an unknown field, one of the wrong type, a name that no object can have. It is
// a module of its own, with the versions that helm is built of, so that it costs little.
package kube

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// empty is an object of a kind; nil: the kind isn't Kubernetes's own.
func empty(of metav1.TypeMeta) (object any, known bool) {
	switch of.APIVersion + " " + of.Kind {
	case "v1 ConfigMap":
		return &corev1.ConfigMap{}, true
	case "v1 Service":
		return &corev1.Service{}, true
	case "v1 ServiceAccount":
		return &corev1.ServiceAccount{}, true
	case "v1 Pod":
		return &corev1.Pod{}, true
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}, true
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}, true
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{}, true
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}, true
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}, true
	case "cert-manager.io/v1 Certificate", "monitoring.coreos.com/v1 PodMonitor", "monitoring.coreos.com/v1 ServiceMonitor":
		return nil, true
	}
	return nil, false
}

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../deploy/helm/testdata/golden/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, "../../deploy/etcd/etcd.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
			for count := 0; ; count++ {
				document, err := documents.Read()
				if errors.Is(err, io.EOF) && count > 3 {
					return
				}
				if err != nil {
					t.Fatal(count, err)
				}
				check(t, document)
			}
		})
	}
}

func check(t *testing.T, document []byte) {
	t.Helper()
	var kind metav1.PartialObjectMetadata
	if err := strict.Unmarshal(document, &kind); err != nil {
		t.Fatal(err)
	}
	what := kind.Kind + " " + kind.Name
	object, known := empty(kind.TypeMeta)
	if !known {
		t.Errorf("%s: no such kind in %s", what, kind.APIVersion)
		return
	}
	if object != nil {
		if err := strict.UnmarshalStrict(document, object); err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
	}
	for _, wrong := range validation.IsDNS1123Label(kind.Name) {
		t.Errorf("%s: %s", what, wrong)
	}
	checkLabels(t, what, kind.Labels)
	switch o := object.(type) {
	case *appsv1.Deployment:
		checkTemplate(t, what, o.Spec.Selector, o.Spec.Template)
	case *appsv1.StatefulSet:
		checkTemplate(t, what, o.Spec.Selector, o.Spec.Template)
		if len(what) > len("StatefulSet ")+52 { // and its pods' label for the revision
			t.Errorf("%s: too long a name", what)
		}
	case *corev1.Pod:
		checkPod(t, what, o.Spec)
	case *corev1.Service:
		for _, port := range o.Spec.Ports {
			checkPort(t, what, port.Name)
		}
	}
}

func checkLabels(t *testing.T, what string, all map[string]string) {
	t.Helper()
	for key, value := range all {
		for _, wrong := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
			t.Errorf("%s: label %s: %q: %s", what, key, value, wrong)
		}
	}
}

// checkTemplate: a selector has to select the pods that are made.
func checkTemplate(t *testing.T, what string, by *metav1.LabelSelector, template corev1.PodTemplateSpec) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(template.Labels)) {
		t.Errorf("%s: its selector is not for its pods: %v, %v", what, by, err)
	}
	checkLabels(t, what, template.Labels)
	checkPod(t, what, template.Spec)
	for _, spread := range template.Spec.TopologySpreadConstraints {
		selector, err := metav1.LabelSelectorAsSelector(spread.LabelSelector)
		if err != nil || !selector.Matches(labels.Set(template.Labels)) {
			t.Errorf("%s: its spread over %s counts other pods: %v", what, spread.TopologyKey, err)
		}
	}
}

func checkPod(t *testing.T, what string, pod corev1.PodSpec) {
	t.Helper()
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		if volumes[v.Name] {
			t.Errorf("%s: two volumes %s", what, v.Name)
		}
		volumes[v.Name] = true
	}
	for _, c := range pod.Containers {
		paths := map[string]bool{}
		for _, mount := range c.VolumeMounts {
			// A claim's volume is the StatefulSet's, not the pod's.
			if !volumes[mount.Name] && mount.Name != "data" || paths[mount.MountPath] {
				t.Errorf("%s: %s at %s is no volume, or the second one there", what, mount.Name, mount.MountPath)
			}
			paths[mount.MountPath] = true
		}
		for _, port := range c.Ports {
			checkPort(t, what, port.Name)
		}
		for name, limit := range c.Resources.Limits {
			if request, there := c.Resources.Requests[name]; there && request.Cmp(limit) > 0 {
				t.Errorf("%s: asks for %v of %s, and may have %v", what, request, name, limit)
			}
		}
	}
}

func checkPort(t *testing.T, what, name string) {
	t.Helper()
	for _, wrong := range validation.IsValidPortName(name) {
		t.Errorf("%s: port %q: %s", what, name, wrong)
	}
}
