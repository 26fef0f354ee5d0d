"""Writes a fixed-base robot, given as tables of links and joints in URDF terms, as a USD file.

The result has what Isaac Lab needs and nothing else: every link is a child of the robot's root prim, every joint
lives under ``joints``, the first link is welded to the world, and shapes are primitives that collide and are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics, UsdShade

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Look and friction of a shape."""

    name: str
    color: Vector
    friction: float = 0.5
    """Static and dynamic friction coefficient; Newton reads the dynamic one."""


@dataclass(frozen=True)
class Box:
    """A box collider, its pose in the link's frame."""

    material: Material
    size: Vector
    """Edge lengths [m]."""
    xyz: Vector = (0.0, 0.0, 0.0)
    """Centre [m]."""


@dataclass(frozen=True)
class Capsule:
    """A capsule collider, its pose in the link's frame."""

    material: Material
    axis: Literal["X", "Y", "Z"]
    radius: float
    """[m]."""
    length: float
    """Length of the cylinder between the two half spheres [m]."""
    xyz: Vector = (0.0, 0.0, 0.0)
    """Centre [m]."""


@dataclass(frozen=True)
class Link:
    """A rigid body."""

    name: str
    mass: float
    """[kg]."""
    com: Vector
    """Centre of mass in the link's frame [m]."""
    inertia: tuple[float, float, float, float, float, float]
    """xx, xy, xz, yy, yz, zz about the centre of mass, along the link's axes [kg m^2]."""
    shapes: tuple[Box | Capsule, ...]


@dataclass(frozen=True)
class Joint:
    """A joint between two links, at rest where the child's frame is at `xyz`, `rpy` in the parent's frame."""

    name: str
    kind: Literal["fixed", "revolute", "prismatic"]
    parent: str
    child: str
    xyz: Vector = (0.0, 0.0, 0.0)
    """[m]."""
    rpy: Vector = (0.0, 0.0, 0.0)
    """Rotation about the parent's fixed axes x, then y, then z [rad]."""
    axis: Literal["X", "Y", "Z", "-Y"] = "Z"
    """Axis in the child's frame."""
    limits: tuple[float, float] | None = None
    """Lower and upper limit [rad or m]; None leaves the joint unlimited."""
    effort: float = 0.0
    """Largest drive effort [N m or N]; 0 authors no drive."""
    stiffness: float = 0.0
    """[N m/rad or N/m]."""
    damping: float = 0.0
    """[N m s/rad or N s/m]."""


def box_inertia(mass: float, size: Vector) -> tuple[float, float, float, float, float, float]:
    """Inertia of a solid box about its centre, in the order of :attr:`Link.inertia` [kg m^2]."""
    x2, y2, z2 = (edge**2 for edge in size)
    return mass / 12 * (y2 + z2), 0.0, 0.0, mass / 12 * (x2 + z2), 0.0, mass / 12 * (x2 + y2)


def write_robot(path: Path, name: str, links: Sequence[Link], joints: Sequence[Joint], *, comment: str) -> None:
    """Writes the robot to `path` (.usda).

    Args:
        path: File to write; an existing one is replaced.
        name: Name of the default prim.
        links: The bodies. The first is welded to the world; each other one is the child of exactly one joint.
        joints: The joints, parents before children.
        comment: Text at the head of the file: where the numbers come from.
    """
    stage = Usd.Stage.CreateInMemory()
    stage.GetRootLayer().comment = comment
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{name}").GetPrim()
    stage.SetDefaultPrim(root)
    UsdPhysics.ArticulationRootAPI.Apply(root)

    UsdGeom.Scope.Define(stage, f"/{name}/materials")
    for material in dict.fromkeys(shape.material for link in links for shape in link.shapes):
        _add_material(stage, f"/{name}/materials/{material.name}", material)

    poses = {links[0].name: np.eye(4)}
    for joint in joints:
        poses[joint.child] = poses[joint.parent] @ _transform(joint.xyz, joint.rpy)
    for link in links:
        _add_link(stage, f"/{name}/{link.name}", link, poses[link.name], materials=f"/{name}/materials")

    UsdGeom.Scope.Define(stage, f"/{name}/joints")
    base = UsdPhysics.FixedJoint.Define(stage, f"/{name}/joints/root_joint")
    base.CreateBody1Rel().SetTargets([f"/{name}/{links[0].name}"])
    for joint in joints:
        _add_joint(stage, name, joint)
    path.write_text(stage.GetRootLayer().ExportToString(), encoding="utf-8")


def _transform(xyz: Vector, rpy: Vector) -> np.ndarray:
    """Homogeneous transform of a URDF origin, shape (4, 4)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in rpy)
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    transform = np.eye(4)
    transform[:3, :3] = yaw @ pitch @ roll
    transform[:3, 3] = xyz
    return transform


def _quaternion(rotation: np.ndarray) -> Gf.Quatf:
    """Unit quaternion of a rotation matrix, rounded so that the file is the same on every machine."""
    rotation = Gf.Matrix3d(*rotation.T.flatten().tolist())  # USD multiplies row vectors
    quaternion = rotation.ExtractRotation().GetQuat().GetNormalized()
    sign = math.copysign(1.0, quaternion.GetReal())
    return Gf.Quatf(*(round(sign * value, 7) + 0.0 for value in (quaternion.GetReal(), *quaternion.GetImaginary())))


def _vector(values: Sequence[float]) -> Gf.Vec3f:
    return Gf.Vec3f(*(round(float(value), 9) + 0.0 for value in values))


def _principal_axes(inertia: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Principal moments, shape (3,), and a right-handed frame of their axes, shape (3, 3)."""
    xx, xy, xz, yy, yz, zz = inertia
    moments, axes = np.linalg.eigh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
    axes[:, 0] *= np.sign(np.linalg.det(axes))
    return moments, axes


def _add_material(stage: Usd.Stage, path: str, material: Material) -> None:
    usd_material = UsdShade.Material.Define(stage, path)
    shader = UsdShade.Shader.Define(stage, f"{path}/shader")
    shader.CreateIdAttr("UsdPreviewSurface")
    shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(_vector(material.color))
    shader.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.5)
    usd_material.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
    physics = UsdPhysics.MaterialAPI.Apply(usd_material.GetPrim())
    physics.CreateStaticFrictionAttr(material.friction)
    physics.CreateDynamicFrictionAttr(material.friction)
    physics.CreateRestitutionAttr(0.0)


def _add_link(stage: Usd.Stage, path: str, link: Link, pose: np.ndarray, *, materials: str) -> None:
    xform = UsdGeom.Xform.Define(stage, path)
    xform.AddTranslateOp().Set(Gf.Vec3d(*pose[:3, 3].round(9).tolist()))
    xform.AddOrientOp().Set(_quaternion(pose[:3, :3]))
    UsdPhysics.RigidBodyAPI.Apply(xform.GetPrim())
    moments, axes = _principal_axes(link.inertia)
    mass = UsdPhysics.MassAPI.Apply(xform.GetPrim())
    mass.CreateMassAttr(link.mass)
    mass.CreateCenterOfMassAttr(_vector(link.com))
    mass.CreateDiagonalInertiaAttr(_vector(moments))
    mass.CreatePrincipalAxesAttr(_quaternion(axes))
    for index, shape in enumerate(link.shapes):
        add = _add_box if isinstance(shape, Box) else _add_capsule
        prim = add(stage, f"{path}/shape_{index}", shape)
        UsdPhysics.CollisionAPI.Apply(prim)
        material = UsdShade.Material.Get(stage, f"{materials}/{shape.material.name}")
        binding = UsdShade.MaterialBindingAPI.Apply(prim)
        binding.Bind(material)
        binding.Bind(material, materialPurpose="physics")


def _add_box(stage: Usd.Stage, path: str, box: Box) -> Usd.Prim:
    cube = UsdGeom.Cube.Define(stage, path)
    cube.CreateSizeAttr(1.0)
    cube.CreateExtentAttr([Gf.Vec3f(-0.5), Gf.Vec3f(0.5)])
    cube.AddTranslateOp().Set(Gf.Vec3d(*box.xyz))
    cube.AddScaleOp().Set(_vector(box.size))
    return cube.GetPrim()


def _add_capsule(stage: Usd.Stage, path: str, capsule: Capsule) -> Usd.Prim:
    shape = UsdGeom.Capsule.Define(stage, path)
    shape.CreateAxisAttr(capsule.axis)
    shape.CreateRadiusAttr(capsule.radius)
    shape.CreateHeightAttr(capsule.length)
    half = Gf.Vec3f(capsule.radius)
    half["XYZ".index(capsule.axis)] += capsule.length / 2
    shape.CreateExtentAttr([-half, half])
    shape.AddTranslateOp().Set(Gf.Vec3d(*capsule.xyz))
    return shape.GetPrim()


def _add_joint(stage: Usd.Stage, robot: str, joint: Joint) -> None:
    schema = {
        "fixed": UsdPhysics.FixedJoint,
        "revolute": UsdPhysics.RevoluteJoint,
        "prismatic": UsdPhysics.PrismaticJoint,
    }[joint.kind]
    usd_joint = schema.Define(stage, f"/{robot}/joints/{joint.name}")
    # USD has positive axes only: turning both joint frames half a turn about z reverses y
    frame = _transform((0.0, 0.0, 0.0), (0.0, 0.0, math.pi if joint.axis.startswith("-") else 0.0))
    usd_joint.CreateBody0Rel().SetTargets([f"/{robot}/{joint.parent}"])
    usd_joint.CreateBody1Rel().SetTargets([f"/{robot}/{joint.child}"])
    usd_joint.CreateLocalPos0Attr(_vector(joint.xyz))
    usd_joint.CreateLocalRot0Attr(_quaternion((_transform(joint.xyz, joint.rpy) @ frame)[:3, :3]))
    usd_joint.CreateLocalPos1Attr(Gf.Vec3f(0.0))
    usd_joint.CreateLocalRot1Attr(_quaternion(frame[:3, :3]))
    if joint.kind == "fixed":
        return
    usd_joint.CreateAxisAttr(joint.axis[-1])
    per_unit = math.degrees(1.0) if joint.kind == "revolute" else 1.0  # USD measures angles in degrees
    if joint.limits is not None:
        usd_joint.CreateLowerLimitAttr(joint.limits[0] * per_unit)
        usd_joint.CreateUpperLimitAttr(joint.limits[1] * per_unit)
    if joint.effort > 0:
        drive = UsdPhysics.DriveAPI.Apply(usd_joint.GetPrim(), "angular" if joint.kind == "revolute" else "linear")
        drive.CreateTypeAttr("force")
        drive.CreateMaxForceAttr(joint.effort)
        drive.CreateStiffnessAttr(joint.stiffness / per_unit)
        drive.CreateDampingAttr(joint.damping / per_unit)
