package provider

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// The annotations of Backstage's Kubernetes plugin, by which an entity says which objects of a cluster are its own.
const (
	KubernetesID        = "backstage.io/kubernetes-id"
	KubernetesNamespace = "backstage.io/kubernetes-namespace"
	KubernetesSelector  = "backstage.io/kubernetes-label-selector"
	KubernetesCluster   = "backstage.io/kubernetes-cluster"
)

// Labelled are those objects of a cluster that have labels, in a namespace; "" is all namespaces. It is the project of providers on a cluster.
type Labelled struct{ Namespace, Selector string }

// everywhere stands for all namespaces in a project's text.
const everywhere = "*"

// String writes it as a project: namespace/selector.
func (l Labelled) String() string { return cmp.Or(l.Namespace, everywhere) + "/" + l.Selector }

// ReadLabelled reads a project. false: it is none.
func ReadLabelled(project string) (Labelled, bool) {
	namespace, selector, ok := strings.Cut(project, "/")
	if !ok || !selects.MatchString(selector) || namespace != everywhere && !NamespaceName(namespace) {
		return Labelled{}, false
	}
	return Labelled{strings.TrimPrefix(namespace, everywhere), selector}, true
}

// LabelledOf reads what an entity's annotations say of the cluster of that name: the label selector, else the value of the label KubernetesID, for which id stands where that
// annotation is absent; in the namespace that is annotated, else in namespace. false: nothing, or nothing that can be meant.
func LabelledOf(e *slipway.Entity, cluster, namespace, id string) (Labelled, bool) {
	a := func(key string) string { return strings.TrimSpace(e.Metadata.Annotations[key]) }
	if in := a(KubernetesCluster); in != "" && in != cluster {
		return Labelled{}, false
	}
	text := a(KubernetesSelector)
	if id = cmp.Or(a(KubernetesID), id); text == "" && id != "" {
		text = KubernetesID + "=" + id
	}
	selector, ok := Selector(text)
	l := Labelled{cmp.Or(a(KubernetesNamespace), namespace), selector}
	return l, ok && (l.Namespace == "" || NamespaceName(l.Namespace))
}

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	selects  = regexp.MustCompile(`^[A-Za-z0-9./_=!(), -]{1,400}$`)
)

// NamespaceName says whether a namespace of a cluster can be called so.
func NamespaceName(s string) bool { return dnsLabel.MatchString(s) }

// Selector writes a label selector in one way: parts in order, without blanks where none are needed. false: it holds what none does, or selects nothing. The cluster knows the rest.
func Selector(s string) (string, bool) {
	var parts []string
	depth, start := 0, 0
	for i, r := range s + "," {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth <= 0:
			if p := strings.Join(strings.Fields(s[start:min(i, len(s))]), " "); p != "" {
				if !strings.ContainsAny(p, "()") { // a in (b, c) needs its blanks
					p = strings.ReplaceAll(strings.ReplaceAll(p, " ", ""), "==", "=")
				}
				parts = append(parts, p)
			}
			start = i + 1
		}
	}
	slices.Sort(parts)
	s = strings.Join(slices.Compact(parts), ",")
	return s, selects.MatchString(s)
}
