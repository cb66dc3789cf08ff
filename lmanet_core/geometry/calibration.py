"""The calibration of a camera, and what becomes of it when the image is cut or resized."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmanet_core.geometry.size import Size


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """Calibration of a pinhole camera, field for field as in sensor_msgs/CameraInfo.

    Attributes:
        width, height: size the calibration is for, pixels.
        distortion_model, d: name and coefficients; independent of the image size.
        k: 3×3 intrinsic matrix, row by row.
        r: 3×3 rectification, row by row.
        p: 3×4 projection, row by row.
        binning_x, binning_y: pixels merged by the sensor; 0 means 1.
        roi: (x_offset, y_offset, height, width, do_rectify) of the sensor's region of interest; zeros mean all of it.
    """

    width: int
    height: int
    distortion_model: str = ""
    d: tuple[float, ...] = ()
    k: tuple[float, ...] = (0.0,) * 9
    r: tuple[float, ...] = (0.0,) * 9
    p: tuple[float, ...] = (0.0,) * 12
    binning_x: int = 0
    binning_y: int = 0
    roi: tuple[int, int, int, int, bool] = (0, 0, 0, 0, False)

    def for_image(self, size: Size) -> CameraInfo | None:
        """The calibration in the pixels of an image, with the sensor's region of interest and binning worked into it.

        Width, height, K and P of a CameraInfo are the whole sensor's; the image is its region of interest, every
        `binning_x` by `binning_y` pixels merged into one.

        Args:
            size: of the image.

        Returns:
            Without region of interest and binning, for exactly this size. None where the image cannot be this camera's; a
            calibration that is guessed would be worse than none.
        """
        left, top, height, width, rectified = self.roi
        if not any((left, top, height, width)):
            height, width = self.height, self.width
        binning_x, binning_y = max(1, self.binning_x), max(1, self.binning_y)
        if (height // binning_y, width // binning_x) != size:
            return None
        sx, sy = 1 / binning_x, 1 / binning_y
        k, p = map_matrices(self, (sx, -left * sx), (sy, -top * sy))
        return replace(
            self, width=size.width, height=size.height, k=k, p=p, binning_x=0, binning_y=0, roi=(0, 0, 0, 0, rectified)
        )


def map_matrices(
    info: CameraInfo, columns: tuple[float, float], rows: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """K and P after an affine map of pixel edges, (scale, offset) along each axis.

    Pixel centres lie at whole numbers (OpenCV, ROS), edges half a pixel off, hence c' = (c + ½)·s + o − ½.
    """
    (sx, ox), (sy, oy) = columns, rows
    k, p = list(info.k), list(info.p)
    for matrix, stride in ((k, 3), (p, 4)):
        if not any(matrix):
            continue  # an uncalibrated camera stays recognisable: all zero
        matrix[0] *= sx
        matrix[1] *= sx
        matrix[2] = (matrix[2] + 0.5) * sx + ox - 0.5
        matrix[stride + 1] *= sy
        matrix[stride + 2] = (matrix[stride + 2] + 0.5) * sy + oy - 0.5
    if any(p):
        p[3] *= sx  # Tx = −fx · baseline
        p[7] *= sy
    return tuple(k), tuple(p)
