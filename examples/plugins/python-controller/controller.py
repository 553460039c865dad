"""A controller of a kind of its own, written with Python's kubernetes client as anyone would.

For every Page it keeps a ConfigMap with the text and a Deployment that serves it, lists the page in the namespace's
index, and tells in the Page's status how many pods serve it. Pages are read, watched and written with the dynamic client,
built-in kinds with the typed one. It is configured by KUBECONFIG, or by the account of the pod it runs in.
"""

import datetime
import logging
import os
import queue
import socket
import threading
import uuid

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

NAME = "page-controller"
FINALIZER = "plugins.example.io/index"  # holds a Page back until the index names it no more
INDEX = "page-index"  # the ConfigMap that lists a namespace's pages
MERGE = "application/merge-patch+json"

log = logging.getLogger(NAME)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def found(read, *args):
    """What a read gives, or None if there is no such object."""
    try:
        return read(*args)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


class Controller:
    def __init__(self):
        api = client.ApiClient()
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self.events = client.EventsV1Api(api)
        self.pages = DynamicClient(api).resources.get(api_version="plugins.example.io/v1", kind="Page")
        self.todo = queue.Queue(maxsize=10_000)  # blocks the watches when the worker cannot follow

    def run(self):
        """Reconciles until the process ends."""
        for read in (self.apps.list_deployment_for_all_namespaces, self.core.list_config_map_for_all_namespaces):
            informer = SharedInformer(read, label_selector="page")
            for event in ("ADDED", "MODIFIED", "DELETED"):
                informer.add_event_handler(event, self.owned)
            informer.start()
        threading.Thread(target=self.watch_pages, daemon=True).start()
        while True:
            key = self.todo.get()
            try:
                self.reconcile(*key)
            except (ApiException, urllib3.exceptions.HTTPError) as error:
                # A conflict is an ordinary thing: somebody was faster.
                log.warning("%s/%s: %s; once more", *key, str(error).strip().replace("\n", " "))
                again = threading.Timer(1, self.todo.put, [key])
                again.daemon = True
                again.start()

    def owned(self, thing):
        """A Deployment or ConfigMap has changed: look at the Page that owns it."""
        for owner in thing.metadata.owner_references or []:
            if owner.kind == "Page" and owner.controller:
                self.todo.put((thing.metadata.namespace, owner.name))

    def watch_pages(self):
        while True:
            try:
                pages = self.pages.get()
                for page in pages.items:
                    self.todo.put((page.metadata.namespace, page.metadata.name))
                for event in self.pages.watch(resource_version=pages.metadata.resourceVersion, timeout=290):
                    page = event["object"]
                    self.todo.put((page.metadata.namespace, page.metadata.name))
            except (ApiException, urllib3.exceptions.HTTPError) as error:
                log.warning("watching pages: %s; once more", str(error).strip().replace("\n", " "))
                threading.Event().wait(1)

    def reconcile(self, namespace, name):
        page = found(lambda: self.pages.get(name=name, namespace=namespace))
        if page is None:
            return
        page = page.to_dict()
        finalizers = page["metadata"].get("finalizers", [])
        if page["metadata"].get("deletionTimestamp"):
            if FINALIZER in finalizers:
                self.list_in_index(namespace, {name: None})
                self.set_finalizers(page, [other for other in finalizers if other != FINALIZER])
            return
        if FINALIZER not in finalizers:
            page = self.set_finalizers(page, finalizers + [FINALIZER])
        self.list_in_index(namespace, {name: page["spec"]["text"]})
        self.make_content(page)
        deployment = self.make_deployment(page)
        self.tell(page, deployment.status.ready_replicas or 0)

    def set_finalizers(self, page, finalizers):
        metadata = page["metadata"]
        # With the version that was read, so that nobody else's finalizer is lost.
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}}
        changed = self.pages.patch(
            body=patch, name=metadata["name"], namespace=metadata["namespace"], content_type=MERGE
        )
        return changed.to_dict()

    def list_in_index(self, namespace, entry):
        index = found(self.core.read_namespaced_config_map, INDEX, namespace)
        if index is None:
            index = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=INDEX))
            index = self.core.create_namespaced_config_map(namespace, index)
        data = index.data or {}
        if any(data.get(name) != text for name, text in entry.items()):
            self.core.patch_namespaced_config_map(INDEX, namespace, {"data": entry})

    def metadata(self, page):
        owner = client.V1OwnerReference(
            api_version=page["apiVersion"],
            kind=page["kind"],
            name=page["metadata"]["name"],
            uid=page["metadata"]["uid"],
            controller=True,
            block_owner_deletion=True,
        )
        name = page["metadata"]["name"]
        return client.V1ObjectMeta(name=name, labels={"page": name}, owner_references=[owner])

    def make_content(self, page):
        name, namespace = page["metadata"]["name"], page["metadata"]["namespace"]
        data = {"index.html": page["spec"]["text"]}
        content = found(self.core.read_namespaced_config_map, name, namespace)
        if content is None:
            content = client.V1ConfigMap(metadata=self.metadata(page), data=data)
            self.core.create_namespaced_config_map(namespace, content)
        elif content.data != data:
            content.data = data
            self.core.replace_namespaced_config_map(name, namespace, content)

    def make_deployment(self, page):
        name, namespace = page["metadata"]["name"], page["metadata"]["namespace"]
        replicas = page["spec"]["replicas"]
        deployment = found(self.apps.read_namespaced_deployment, name, namespace)
        if deployment is None:
            return self.apps.create_namespaced_deployment(namespace, self.deployment(page))
        if deployment.spec.replicas != replicas:
            return self.apps.patch_namespaced_deployment(name, namespace, {"spec": {"replicas": replicas}})
        return deployment

    def deployment(self, page):
        metadata = self.metadata(page)
        container = client.V1Container(
            name="httpd",
            image="gantry.local/busybox:1.35",
            command=["busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
            volume_mounts=[client.V1VolumeMount(name="content", mount_path="/www")],
        )
        content = client.V1Volume(name="content", config_map=client.V1ConfigMapVolumeSource(name=metadata.name))
        pod = client.V1PodSpec(containers=[container], volumes=[content], termination_grace_period_seconds=1)
        return client.V1Deployment(
            metadata=metadata,
            spec=client.V1DeploymentSpec(
                replicas=page["spec"]["replicas"],
                selector=client.V1LabelSelector(match_labels=metadata.labels),
                template=client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=metadata.labels), spec=pod),
            ),
        )

    def tell(self, page, ready):
        """Writes the status if it is not what the server has."""
        before = page.get("status", {})
        generation = page["metadata"]["generation"]
        everything = ready >= page["spec"]["replicas"]
        condition = {
            "type": "Ready",
            "status": str(everything),
            "reason": "Serving" if everything else "Starting",
            "message": "All pods are ready" if everything else "Not all pods are ready",
            "observedGeneration": generation,
            "lastTransitionTime": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        last = next((other for other in before.get("conditions", []) if other["type"] == "Ready"), {})
        changed = last.get("status") != condition["status"]
        if not changed:
            condition["lastTransitionTime"] = last["lastTransitionTime"]
        status = {"observedGeneration": generation, "readyReplicas": ready, "conditions": [condition]}
        if status == before:
            return
        name, namespace = page["metadata"]["name"], page["metadata"]["namespace"]
        self.pages.status.patch(body={"status": status}, name=name, namespace=namespace, content_type=MERGE)
        if changed:
            self.record(page, condition)

    def record(self, page, condition):
        metadata = page["metadata"]
        event = client.EventsV1Event(
            metadata=client.V1ObjectMeta(generate_name=metadata["name"] + "-"),
            type="Normal",
            reason=condition["reason"],
            note=condition["message"],
            action="Reconcile",
            event_time=now(),
            reporting_controller=NAME,
            reporting_instance=socket.gethostname(),
            regarding=client.V1ObjectReference(
                api_version=page["apiVersion"],
                kind=page["kind"],
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
            ),
        )
        self.events.create_namespaced_event(metadata["namespace"], event)


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config.load_config()
    lock = LeaseLock(NAME, "default", f"{socket.gethostname()}_{uuid.uuid4()}")
    election = electionconfig.Config(
        lock,
        lease_duration=30,
        renew_deadline=20,  # an API server that is back by then finds its controllers as they were
        retry_period=2,
        onstarted_leading=lambda: Controller().run(),
        # Another one leads now: end all threads at once, whoever started this process starts it again.
        onstopped_leading=lambda: os._exit(1),
    )
    leaderelection.LeaderElection(election).run()


if __name__ == "__main__":
    main()
