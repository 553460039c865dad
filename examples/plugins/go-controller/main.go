// A controller of a kind of its own, written with controller-runtime as anyone would. For every Page it keeps a ConfigMap
// with the text and a Deployment that serves it, lists the page in the namespace's index, and tells in the Page's status
// how many pods serve it.
//
// It is configured like every controller-runtime program (KUBECONFIG or --kubeconfig) and uses that library's defaults:
// protobuf for built-in kinds and JSON for its own, caches filled by watches, a Lease for the leader.
package main

import (
	"context"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	// finalizer holds a Page back until the index names it no more.
	finalizer = "plugins.example.io/index"
	// index is the ConfigMap that lists a namespace's pages.
	index = "page-index"
)

type reconciler struct {
	client.Client
	scheme   *runtime.Scheme
	recorder events.EventRecorder
}

// Reconcile makes what a Page wants, and tells what there is of it.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	page := &Page{}
	if err := r.Get(ctx, request.NamespacedName, page); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !page.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.farewell(ctx, page)
	}
	if controllerutil.AddFinalizer(page, finalizer) {
		if err := r.Update(ctx, page); err != nil {
			return ctrl.Result{}, err
		}
	}
	deployment, err := r.make(ctx, page)
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.tell(ctx, page, deployment)
}

// make makes the index's entry, the ConfigMap and the Deployment, or corrects them.
func (r *reconciler) make(ctx context.Context, page *Page) (*appsv1.Deployment, error) {
	entries := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: index, Namespace: page.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, entries, func() error {
		if entries.Data == nil {
			entries.Data = map[string]string{}
		}
		entries.Data[page.Name] = page.Spec.Text
		return nil
	})
	if err != nil {
		return nil, err
	}
	labels := map[string]string{"page": page.Name}
	content := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: page.Name, Namespace: page.Namespace}}
	_, err = controllerutil.CreateOrUpdate(ctx, r.Client, content, func() error {
		content.Labels = labels
		content.Data = map[string]string{"index.html": page.Spec.Text}
		return controllerutil.SetControllerReference(page, content, r.scheme)
	})
	if err != nil {
		return nil, err
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: page.Name, Namespace: page.Namespace}}
	_, err = controllerutil.CreateOrUpdate(ctx, r.Client, deployment, func() error {
		want(page, deployment, labels)
		return controllerutil.SetControllerReference(page, deployment, r.scheme)
	})
	return deployment, err
}

// want sets the fields that matter here and leaves the rest to the server's defaults.
func want(page *Page, deployment *appsv1.Deployment, labels map[string]string) {
	replicas := page.Spec.Replicas
	deployment.Spec.Replicas = &replicas
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	pod := &deployment.Spec.Template
	pod.Labels = labels
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "httpd"}}
	}
	grace := int64(1)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.Containers[0].Image = "gantry.local/busybox:1.35"
	pod.Spec.Containers[0].Command = []string{"busybox", "httpd", "-f", "-p", "8080", "-h", "/www"}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "content", MountPath: "/www"}}
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: page.Name}}
	if len(pod.Spec.Volumes) == 0 {
		pod.Spec.Volumes = []corev1.Volume{{Name: "content", VolumeSource: corev1.VolumeSource{ConfigMap: source}}}
	}
}

// tell writes the status if it is not what the server has.
func (r *reconciler) tell(ctx context.Context, page *Page, deployment *appsv1.Deployment) error {
	before := page.Status.DeepCopy()
	page.Status.ObservedGeneration = page.Generation
	page.Status.ReadyReplicas = deployment.Status.ReadyReplicas
	ready := metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, ObservedGeneration: page.Generation,
		Reason: "Starting", Message: "Not all pods are ready",
	}
	if deployment.Status.ReadyReplicas >= page.Spec.Replicas {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionTrue, "Serving", "All pods are ready"
	}
	changed := meta.SetStatusCondition(&page.Status.Conditions, ready)
	if equality.Semantic.DeepEqual(before, &page.Status) {
		return nil
	}
	if err := r.Status().Update(ctx, page); err != nil {
		return err
	}
	if changed {
		r.recorder.Eventf(page, nil, corev1.EventTypeNormal, ready.Reason, "Reconcile", ready.Message)
	}
	return nil
}

// farewell takes a Page that is being deleted out of the index and lets it go. Its ConfigMap and Deployment name it as
// their owner and go by themselves.
func (r *reconciler) farewell(ctx context.Context, page *Page) error {
	if !controllerutil.ContainsFinalizer(page, finalizer) {
		return nil
	}
	entries := &corev1.ConfigMap{}
	err := r.Get(ctx, client.ObjectKey{Name: index, Namespace: page.Namespace}, entries)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if _, listed := entries.Data[page.Name]; listed {
		delete(entries.Data, page.Name)
		if err := r.Update(ctx, entries); err != nil {
			return err
		}
	}
	controllerutil.RemoveFinalizer(page, finalizer)
	return r.Update(ctx, page)
}

func run() error {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(AddToScheme(scheme))
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       server.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              "page-controller",
		LeaderElectionNamespace:       "default",
		LeaderElectionReleaseOnCancel: true,
		// An API server that is back within twenty seconds finds its controllers as they were.
		LeaseDuration: new(30 * time.Second),
		RenewDeadline: new(20 * time.Second),
	})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(manager).
		For(&Page{}).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.ConfigMap{}).
		Complete(&reconciler{
			Client: manager.GetClient(), scheme: scheme, recorder: manager.GetEventRecorder("page-controller"),
		})
	if err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

func main() {
	ctrl.SetLogger(zap.New())
	if err := run(); err != nil {
		ctrl.Log.Error(err, "the controller ended")
		os.Exit(1)
	}
}
