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
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo as CameraInfoMessage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from lmanet_core.errors import ConfigError, LmanetError
from lmanet_core.frame import Discontinuity
from lmanet_core.media.mailbox import Mailbox
from lmanet_core.weights.checkpoint import Model, load_model
from lmanet_core.weights.runtime import Runtime, prepare_runtime
from lmanet_core.weights.shipped import STREET_ONLY
from lmanet_ros.bond import Bond
from lmanet_ros.camera import Arrival, Camera
from lmanet_ros.conversions import camera_info_from_ros, uses_cv_bridge
from lmanet_ros.diagnostics import ERROR, OK, WARN, camera_status, make_status, used_memory
from lmanet_ros.listening import Listening
from lmanet_ros.model import describe_memory, find_weights
from lmanet_ros.offers import explain_silence
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
from lmanet_ros.transitions import refuse_impossible_transitions
from lmanet_ros.worker import Worker

_LOOK_EVERY_S = 0.2  # whether somebody listens

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class SegmentNode(LifecycleNode):
    """See the module.

    Raises:
        ConfigError: parameters that are wrong from the start.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("segment_node", **options)
        # Before parameters are read: where they are wrong, Kilted destroys this node all the same.
        self._state = "unconfigured"
        self._failure = ""  # why it could not configure
        self._model: Model | None = None
        self._runtime: Runtime | None = None
        self._cameras: dict[str, Camera] = {}
        self._mailbox: Mailbox[Arrival] | None = None
        self._worker: Worker | None = None
        self._bond: Bond | None = None
        self._listening = Listening(self, self._on_image, self._on_camera_info)
        self._heard_s = 0.0  # when somebody listened to us last, on the steady clock
        self._silent: dict[str, int] = {}  # cameras whose silence was said → images received by then
        self._previous: dict[str, Snapshot] = {}
        self._drops_before: dict[str, int] = {}  # of mailboxes that are gone
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump_handle = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)
        self._settings: Settings = read_settings(declare_parameters(self))
        self._warn_of_unknown_parameters()
        refuse_impossible_transitions(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        if hasattr(self, "add_post_set_parameters_callback"):
            self.add_post_set_parameters_callback(self._after_set_parameters)
        self.create_service(Trigger, "~/reset_memory", self._on_reset_memory)
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(1.0, self._on_second, clock=steady)
        self.create_timer(_LOOK_EVERY_S, self._listen_as_wanted, clock=steady)

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
        self._heard_s = time.monotonic()
        self._listening.find({name: camera.prefix for name, camera in self._cameras.items()}, self._settings.transport)
        try:
            self._listening.start()
            self._bond = Bond(self) if self._settings.bond else None
        except Exception as error:  # QoS overrides that do not exist, no package bond
            reason = str(error) if isinstance(error, LmanetError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot activate: {reason}")
            self._stop()
            return FAILURE
        self._state = "active"
        self.get_logger().info(f"active, images from {', '.join(self._listening.topics)}")
        self._listen_as_wanted()
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
        self._bond = None  # in silence: a manager that was told now would ask what is about to be gone
        self._stop()
        self._jump_handle.unregister()
        super().destroy_node()

    def _configure(self) -> None:
        settings = self._settings
        path = find_weights(settings.weights)
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
        memory = describe_memory(runtime, settings.segmenter)
        self.get_logger().info(
            f"{path}: {model.source} on {runtime.device} in {runtime.describe_precision()}, {memory}, "
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
        if self._bond is not None:
            self._bond.break_off()
            self._bond = None
        self._listening.stop()
        mailbox, worker = self._mailbox, self._worker
        self._mailbox = self._worker = None
        if mailbox is not None and worker is not None:
            mailbox.close()
            worker.join()
            for name, count in mailbox.dropped.items():
                self._drops_before[name] += count

    # Images

    def _on_image(self, name: str, message: Image | CompressedImage) -> None:
        if self._mailbox is not None:
            self._cameras[name].statistics.count_received()
            self._mailbox.put(name, Arrival(message, time.monotonic()))

    def _listen_as_wanted(self) -> None:
        """Subscribe or unsubscribe, as `enabled` and, in lazy mode, the listeners have it."""
        if self._state != "active":
            return
        settings, now_s = self._settings, time.monotonic()
        if settings.decode_when_unheard or any(camera.publishers.are_heard() for camera in self._cameras.values()):
            self._heard_s = now_s
        idle = not settings.enabled or now_s - self._heard_s > settings.unheard_after_s
        if idle and self._listening.is_on:
            self._listening.stop()
            self.get_logger().info("nobody listens: no images are taken" if settings.enabled else "switched off")
        elif not idle and not self._listening.is_on:
            for camera in self._cameras.values():
                camera.statistics.restart()
            self._listening.start()
            self.get_logger().info(f"images from {', '.join(self._listening.topics)} again")

    def _on_set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter("enabled", value=bool(request.data))])[0]
        response.success, response.message = result.successful, result.reason or ("on" if request.data else "off")
        return response

    def _on_camera_info(self, name: str, message: CameraInfoMessage) -> None:
        if name in self._cameras:
            self._cameras[name].calibration = camera_info_from_ros(message)

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
        now_ns = self.get_clock().now().nanoseconds
        for camera in self._cameras.values():
            camera.segmenter.request_reset(Discontinuity.CLOCK_JUMP, now_ns)

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
        self._listen_as_wanted()

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
            "memory": describe_memory(self._runtime, self._settings.segmenter),
            "implementation": self._runtime.attention(self._settings.segmenter.attention),
            **used_memory(self._runtime.device),
        }
        return make_status(name, OK if self._state == "active" else WARN, self._state, values)

    def _camera_status(self, name: str, camera: Camera) -> DiagnosticStatus:
        assert self._mailbox is not None and self._runtime is not None
        topic, settings = self._listening.topic(name), self._settings
        label = f"{self.get_fully_qualified_name().lstrip('/')}: {name or 'camera'}"
        if not self._listening.is_on:
            return make_status(label, OK, "idle: nobody listens" if settings.enabled else "switched off", {"topic": topic})
        now = camera.statistics.snapshot()
        hint = ""
        if now.received > self._silent.get(name, now.received):
            del self._silent[name]
            self.get_logger().info(f"images on {topic} again")
        if now.since_image_s > settings.no_image_warn_s:
            hint = explain_silence(self, topic, self._listening.transport(name))
            if name not in self._silent:
                self._silent[name] = now.received
                self.get_logger().warning(f"no image on {topic} for {now.since_image_s:.1f} s: {hint}")
        memory = self._runtime.config.memory
        capacity = 0 if memory is None else settings.segmenter.memory_frames or memory.memory_frames
        dropped = self._drops_before[name] + self._mailbox.dropped[name]
        previous, self._previous[name] = self._previous.get(name), now
        return camera_status(label, topic, now, previous, dropped, capacity, settings, hint)

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg())
