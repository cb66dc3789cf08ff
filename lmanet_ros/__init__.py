"""The ROS 2 side of lmanet_ros: the only package here that may import rclpy. The node joins in a later version."""
