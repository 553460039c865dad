package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// PageSpec is what is wanted.
type PageSpec struct {
	// Text is what the page says.
	Text string `json:"text"`
	// Replicas is how many pods serve it.
	Replicas int32 `json:"replicas"`
}

// PageStatus is what there is.
type PageStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// Page is a web page that is to be served.
type Page struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   PageSpec   `json:"spec"`
	Status PageStatus `json:"status,omitempty"`
}

// PageList is some of them.
type PageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Page `json:"items"`
}

// DeepCopy copies a status.
func (s *PageStatus) DeepCopy() *PageStatus {
	copied := *s
	copied.Conditions = append([]metav1.Condition(nil), s.Conditions...)
	return &copied
}

// DeepCopyObject makes a Page an object.
func (p *Page) DeepCopyObject() runtime.Object {
	copied := *p
	p.ObjectMeta.DeepCopyInto(&copied.ObjectMeta)
	copied.Status = *p.Status.DeepCopy()
	return &copied
}

// DeepCopyObject makes a PageList an object.
func (l *PageList) DeepCopyObject() runtime.Object {
	copied := PageList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&copied.ListMeta)
	for index := range l.Items {
		copied.Items = append(copied.Items, *l.Items[index].DeepCopyObject().(*Page))
	}
	return &copied
}

var groupVersion = schema.GroupVersion{Group: "plugins.example.io", Version: "v1"}

// AddToScheme tells a scheme of the kinds.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(groupVersion, &Page{}, &PageList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	return nil
}
