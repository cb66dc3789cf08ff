"""LMANet as a ROS 2 node: the only package that imports rclpy. Everything that segments is in `lmanet_core`."""
