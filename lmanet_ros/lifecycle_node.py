"""The managed node: parameters, subscriptions, services, timers around the cameras and their worker.

    executor's thread: image callbacks → mailbox      timers → diagnostics      services, parameters, transitions
    worker's thread:   mailbox → convert → segment → publish

Everything here runs in the one thread that spins a single-threaded executor; image callbacks store and return. The worker
exists only while the node is active; a transition away waits for the frame in hand. `_settings` is replaced as a whole.

unconfigured → (weights loaded, publishers made) → inactive → (subscribed, worker running) → active
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo as CameraInfoMessage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lmanet_core.errors import ConfigError, LmanetError, WeightsError
from lmanet_core.frame import Discontinuity
from lmanet_core.media.mailbox import Mailbox
from lmanet_core.weights.checkpoint import Model, load_model
from lmanet_core.weights.runtime import Runtime, prepare_runtime
from lmanet_core.weights.shipped import STREET_ONLY, default_weights
from lmanet_ros.camera import Arrival, Camera
from lmanet_ros.compatibility import SubscriptionEventCallbacks
from lmanet_ros.conversions import camera_info_from_ros, uses_cv_bridge
from lmanet_ros.diagnostics import ERROR, OK, WARN, camera_status, make_status, used_memory
from lmanet_ros.offers import explain_silence, name_policy
from lmanet_ros.parameters import (
    Settings,
    apply_to_labels,
    change_settings,
    current_values,
    declare_parameters,
    read_settings,
    unknown_names,
)
from lmanet_ros.statistics import Snapshot
from lmanet_ros.worker import Worker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class SegmentNode(LifecycleNode):
    """See the module.

    Raises:
        ConfigError: parameters that are wrong from the start.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("segment_node", **options)
        self._settings: Settings = read_settings(declare_parameters(self))
        self._warn_of_unknown_parameters()
        self._state = "unconfigured"
        self._failure = ""  # why it could not configure
        self._model: Model | None = None
        self._runtime: Runtime | None = None
        self._cameras: dict[str, Camera] = {}
        self._mailbox: Mailbox[Arrival] | None = None
        self._worker: Worker | None = None
        self._subscriptions_of_cameras: list[Any] = []
        self._topics: dict[str, str] = {}  # camera → resolved image topic
        self._silent: dict[str, int] = {}  # cameras whose silence was said → images received by then
        self._previous: dict[str, Snapshot] = {}
        self._drops_before: dict[str, int] = {}  # of mailboxes that are gone
        self.add_on_set_parameters_callback(self._on_set_parameters)
        if hasattr(self, "add_post_set_parameters_callback"):
            self.add_post_set_parameters_callback(self._after_set_parameters)
        self.create_service(Trigger, "~/reset_memory", self._on_reset_memory)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(1.0, self._on_second, clock=steady)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump_handle = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)

    @property
    def state(self) -> str:
        """unconfigured, inactive or active."""
        return self._state

    def start(self) -> None:
        """Configure and activate, unless the parameter `autostart` says otherwise."""
        if not self._settings.autostart:
            self.get_logger().info("waiting for a configure transition (autostart is false)")
        elif self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights, make the publishers."""
        try:
            self._configure()
        except Exception as error:  # a transition that raises would say nothing at all
            self._failure = str(error) if isinstance(error, LmanetError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot configure: {self._failure}")
            self._release()
            return FAILURE
        self._failure = ""
        self._state = "inactive"
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker; every memory begins empty."""
        for camera in self._cameras.values():
            camera.restart()
            camera.publishers.publish_label_info()
        self._silent.clear()
        self._previous.clear()
        self._mailbox = Mailbox(list(self._cameras))
        self._worker = Worker(self._mailbox, self._cameras, lambda: self._settings)
        self._worker.start()
        try:
            for name, camera in self._cameras.items():
                self._subscribe(name, camera)
        except Exception as error:  # QoS overrides that do not exist
            self.get_logger().error(f"cannot activate: {type(error).__name__}: {error}")
            self._stop()
            return FAILURE
        self._state = "active"
        self.get_logger().info(f"active, images from {', '.join(self._topics.values())}")
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame in hand, forget every memory."""
        self._stop()
        self._state = "inactive"
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of publishers, network and device memory."""
        self._stop()
        self._release()
        self._state = "unconfigured"
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state."""
        self._stop()
        self._release()
        self._state = "finalized"
        return SUCCESS

    def destroy_node(self) -> None:
        """Also stops the worker."""
        self._stop()
        self._jump_handle.unregister()
        super().destroy_node()

    def _configure(self) -> None:
        settings = self._settings
        path = _find_weights(settings.weights)
        if not settings.weights:
            self.get_logger().info(STREET_ONLY)
        model = load_model(path)
        runtime = prepare_runtime(model, settings.runtime)
        labels = apply_to_labels(runtime.config.labels, settings)
        runtime = replace(runtime, config=replace(runtime.config, labels=labels))
        self._model, self._runtime = model, runtime
        for name in settings.cameras:
            self._cameras[name] = Camera(self, name, runtime, settings)
        self._drops_before = dict.fromkeys(settings.cameras, 0)
        self.get_logger().info(
            f"{path}: {model.source} on {runtime.device} in {runtime.precision}, {self._describe_memory()}, "
            f"attention {runtime.attention(settings.segmenter.attention)}, "
            f"images by {'cv_bridge' if uses_cv_bridge() else 'rosbags-image'}"
        )

    def _release(self) -> None:
        for camera in self._cameras.values():
            camera.publishers.destroy()
        self._cameras = {}
        self._model = self._runtime = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _stop(self) -> None:
        for subscription in self._subscriptions_of_cameras:
            self.destroy_subscription(subscription)
        self._subscriptions_of_cameras = []
        mailbox, worker = self._mailbox, self._worker
        self._mailbox = self._worker = None
        if mailbox is not None and worker is not None:
            mailbox.close()
            worker.join()
            for name, count in mailbox.dropped.items():
                self._drops_before[name] += count

    # Images

    def _subscribe(self, name: str, camera: Camera) -> None:
        kind, topic = {"raw": (Image, "image"), "compressed": (CompressedImage, "image/compressed")}[self._settings.transport]
        topic = camera.prefix + topic
        self._topics[name] = self.resolve_topic_name(topic)
        overriding = QoSOverridingOptions.with_default_policies()
        events = SubscriptionEventCallbacks(incompatible_qos=partial(self._on_incompatible_qos, name))
        for message, where, callback, extra in (
            (kind, topic, partial(self._on_image, name), {"event_callbacks": events}),
            (CameraInfoMessage, f"{camera.prefix}camera_info", partial(self._on_camera_info, name), {}),
        ):
            # Depth 1: what waits in a queue is old already.
            qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            subscription = self.create_subscription(message, where, callback, qos, qos_overriding_options=overriding, **extra)
            self._subscriptions_of_cameras.append(subscription)

    def _on_image(self, name: str, message: Image | CompressedImage) -> None:
        if self._mailbox is not None:
            self._cameras[name].statistics.count_received()
            self._mailbox.put(name, Arrival(message, time.monotonic()))

    def _on_camera_info(self, name: str, message: CameraInfoMessage) -> None:
        if name in self._cameras:
            self._cameras[name].calibration = camera_info_from_ros(message)

    def _on_incompatible_qos(self, name: str, event: Any) -> None:
        topic = self._topics[name]
        self.get_logger().warning(
            f"{topic}: a publisher offers another {name_policy(event.last_policy_kind)} than this node asks for, "
            f"so its images do not arrive: {explain_silence(self, topic, self._settings.transport)}"
        )

    # Memory

    def _on_reset_memory(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._state != "active":
            response.message = f"the node is {self._state}, there is no memory to clear"
            return response
        for camera in self._cameras.values():
            camera.segmenter.request_reset(Discontinuity.MANUAL)
        response.success = True
        response.message = f"cleared before the next image of {len(self._cameras)} camera{'s'[: len(self._cameras) != 1]}"
        return response

    def _on_clock_jump(self, jump: Any) -> None:
        if self._mailbox is None:
            return
        self._mailbox.clear()  # of the time before
        for camera in self._cameras.values():
            camera.segmenter.request_reset(Discontinuity.CLOCK_JUMP)

    # Parameters

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters}
        try:
            settings = change_settings(current_values(self), changes, configured=self._state != "unconfigured")
            if settings.segmenter.memory and "memory.enabled" in changes:
                self._require_memory()
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not hasattr(self, "add_post_set_parameters_callback"):  # Humble
            self._settings = settings
        return SetParametersResult(successful=True)

    def _after_set_parameters(self, parameters: Sequence[Parameter]) -> None:
        self._settings = read_settings(current_values(self))

    def _require_memory(self) -> None:
        if self._runtime is not None and self._runtime.config.memory is None:
            raise ConfigError("these weights have no memory (single-frame network), it cannot be switched on")

    def _warn_of_unknown_parameters(self) -> None:
        for name, meant in unknown_names(self._parameter_overrides).items():
            hint = f"; did you mean {meant}?" if meant else ""
            self.get_logger().warning(f"parameter {name} is not one of this node's and changes nothing{hint}")

    # Diagnostics

    def _on_second(self) -> None:
        statuses = [self._node_status()]
        if self._state == "active":
            statuses += [self._camera_status(name, camera) for name, camera in self._cameras.items()]
        self._diagnostics.publish(DiagnosticArray(header=self._header(), status=statuses))

    def _node_status(self) -> DiagnosticStatus:
        name = self.get_fully_qualified_name().lstrip("/")
        if self._runtime is None:
            level = ERROR if self._failure else WARN
            return make_status(name, level, f"{self._state}{f': {self._failure}' if self._failure else ''}", {})
        values = {
            "weights": self._model.source if self._model else "",
            "device": self._runtime.device,
            "precision": self._runtime.precision,
            "memory": self._describe_memory(),
            "implementation": self._runtime.attention(self._settings.segmenter.attention),
            **used_memory(self._runtime.device),
        }
        return make_status(name, OK if self._state == "active" else WARN, self._state, values)

    def _camera_status(self, name: str, camera: Camera) -> DiagnosticStatus:
        assert self._mailbox is not None and self._runtime is not None
        topic, settings = self._topics[name], self._settings
        now = camera.statistics.snapshot()
        hint = ""
        if now.received > self._silent.get(name, now.received):
            del self._silent[name]
            self.get_logger().info(f"images on {topic} again")
        if now.since_image_s > settings.no_image_warn_s:
            hint = explain_silence(self, topic, settings.transport)
            if name not in self._silent:
                self._silent[name] = now.received
                self.get_logger().warning(f"no image on {topic} for {now.since_image_s:.1f} s: {hint}")
        memory = self._runtime.config.memory
        capacity = 0 if memory is None else settings.segmenter.memory_frames or memory.memory_frames
        dropped = self._drops_before[name] + self._mailbox.dropped[name]
        label = f"{self.get_fully_qualified_name().lstrip('/')}: {name or 'camera'}"
        previous, self._previous[name] = self._previous.get(name), now
        return camera_status(label, topic, now, previous, dropped, capacity, settings, hint)

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg())

    def _describe_memory(self) -> str:
        assert self._runtime is not None
        memory = self._runtime.config.memory
        if memory is None:
            return "no memory in these weights"
        frames = self._settings.segmenter.memory_frames or memory.memory_frames
        state = "" if self._settings.segmenter.memory else " (switched off)"
        return f"memory {frames} frames, window {memory.window or 'global'}{state}"


def _find_weights(given: str) -> Path:
    """The weights to load; raises WeightsError where none are given and none are shipped."""
    if given:
        return Path(given).expanduser()
    try:
        return default_weights()
    except WeightsError as error:
        raise WeightsError(
            f"no weights given, and {error}: set the parameter weights to a file "
            "(launch: weights:=/path/to/lmanet_erf_best.pth; running: ros2 param set /segment_node weights /path, "
            "then ros2 lifecycle set /segment_node configure)"
        ) from error
