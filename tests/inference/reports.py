"""Reports with every field filled, for the tests of what is rendered from them. Names and numbers are made up."""

from datetime import UTC, datetime

from mdf.inference.report import (
    Box,
    Diagnosis,
    Disc,
    Earlier,
    Evidence,
    EyeReport,
    Flag,
    Gradability,
    Grade,
    Impression,
    Laterality,
    Lesion,
    Macula,
    Origin,
    Photograph,
    Referral,
    Report,
    Software,
    Statement,
    Urgency,
    Vessels,
    Words,
)

LIMITS = [
    "the retina outside the picture",
    "thickening of the retina: macular oedema needs optical coherence tomography",
    "visual acuity, eye pressure and visual fields",
]


def software() -> Software:
    return Software(
        version="0.1.0",
        checkpoint="quickstart",
        fingerprint="3f9a1c0d5e7b2468",
        preprocessing="a81b09c2",
        masks=["vessel", "disc", "cup", "microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool_spot"],
        operating_point={"temperature": 1.31, "diabetic_retinopathy": 0.42},
    )


def full_report() -> Report:
    """Both eyes of one patient: moderate non-proliferative retinopathy on the right, mild on the left."""
    right, left = right_eye(), left_eye()
    return Report(
        id="8f14e45f-ceea-467f-a8a2-3c6b1f0d9b11",
        created=datetime(2026, 11, 23, 10, 5, tzinfo=UTC),
        software=software(),
        patient="P-0017",
        eyes=[right, left],
        comparison=[
            Statement(
                origin=Origin.RULE,
                text="The right eye is graded higher (moderate) than the left (mild).",
                evidence=[Evidence(text="ICDR 2 on the right, ICDR 1 on the left")],
            ),
            Statement(
                origin=Origin.MEASUREMENT,
                text="The cup-disc ratios differ by 0.04 (right 0.38, left 0.34).",
                evidence=[Evidence(text="heights of cup and disc in both masks", mask="cup")],
            ),
        ],
        earlier=Earlier(
            id="1679091c-5a88-4faf-afb5-e6087eb1b2dc", created=datetime(2025, 11, 20, 9, 30, tzinfo=UTC), reviewed=True
        ),
        since=[
            Statement(origin=Origin.RULE, text="Right eye: haemorrhages were one to five and are now six to twenty.")
        ],
        referral=right.referral,
    )


def right_eye() -> EyeReport:
    return EyeReport(
        laterality=Laterality(
            origin=Origin.USER, eye="right", evidence=[Evidence(text="disc on the right of the fovea", mask="disc")]
        ),
        photograph=Photograph(
            name="P-0017_OD.jpg", sha256="5d" * 32, width=2048, height=1536, fields="macula-centred", view=0.97
        ),
        gradability=Gradability(
            value="good",
            is_retina=True,
            score=0.86,
            parts={"illumination": 0.91, "sharpness": 0.86, "contrast": 0.93, "field": 0.97},
        ),
        media=Statement(
            origin=Origin.MEASUREMENT,
            text="Media clear enough for small vessels to be told apart.",
            evidence=[Evidence(text="sharpness 0.86, contrast 0.93")],
        ),
        disc=Disc(
            found=True,
            box=Box(left=1480, top=640, right=1706, bottom=884),
            diameter=244.0,
            cup_disc_ratio=0.38,
            statements=[
                Statement(
                    origin=Origin.MEASUREMENT,
                    text="Vertical cup-disc ratio 0.38.",
                    evidence=[Evidence(text="height of the cup 93 px, of the disc 244 px", mask="cup")],
                )
            ],
        ),
        vessels=Vessels(
            found=True,
            density=0.118,
            statements=[
                Statement(
                    origin=Origin.SEGMENTATION,
                    text="Vessels cover 11.8 % of the field.",
                    evidence=[Evidence(text="mask of vessels", mask="vessel")],
                )
            ],
        ),
        macula=Macula(
            centre=(1012.0, 770.0),
            nearest_exudate=0.7,
            statements=[
                Statement(
                    origin=Origin.MEASUREMENT,
                    text="The nearest hard exudate lies 0.7 disc diameters from the fovea.",
                    evidence=[
                        Evidence(
                            text="distance in the mask of hard exudates",
                            mask="hard_exudate",
                            boxes=[Box(left=1120, top=860, right=1152, bottom=884)],
                        )
                    ],
                )
            ],
        ),
        lesions=[
            Lesion(
                kind="microaneurysm",
                present=True,
                origin=Origin.SEGMENTATION,
                probability=0.94,
                calibrated=True,
                answered=0.91,
                drawn=7,
                count=7,
                band="six to twenty",
                zones=["superotemporal", "macula"],
                nearest_fovea=0.5,
                boxes=[Box(left=903, top=604, right=915, bottom=616), Box(left=1060, top=850, right=1070, bottom=861)],
                evidence=[
                    Evidence(
                        text="7 regions in the mask of microaneurysms",
                        mask="microaneurysm",
                        boxes=[Box(left=903, top=604, right=915, bottom=616)],
                    )
                ],
            ),
            Lesion(
                kind="haemorrhage",
                present=True,
                origin=Origin.SEGMENTATION,
                probability=0.97,
                calibrated=True,
                answered=0.98,
                drawn=9,
                count=9,
                band="six to twenty",
                zones=["superotemporal", "inferotemporal", "inferonasal"],
                nearest_fovea=1.2,
                boxes=[Box(left=700, top=420, right=760, bottom=471)],
                evidence=[Evidence(text="9 regions in the mask of haemorrhages", mask="haemorrhage")],
            ),
            Lesion(
                kind="hard_exudate",
                present=True,
                origin=Origin.SEGMENTATION,
                probability=0.88,
                answered=0.83,
                drawn=3,
                count=3,
                band="one to five",
                zones=["inferotemporal", "macula"],
                nearest_fovea=0.7,
                boxes=[Box(left=1120, top=860, right=1152, bottom=884)],
                evidence=[Evidence(text="3 regions in the mask of hard exudates", mask="hard_exudate")],
            ),
            Lesion(
                kind="cotton_wool_spot",
                present=None,
                origin=Origin.SCORING,
                probability=0.58,
                answered=0.58,
                drawn=0,
                evidence=[Evidence(text="no region in the mask of cotton-wool spots", mask="cotton_wool_spot")],
            ),
            Lesion(kind="drusen", present=False, origin=Origin.SCORING, probability=0.96, answered=0.04),
        ],
        grades=[
            Grade(
                scale="ICDR",
                version="2003",
                value="2",
                name="moderate non-proliferative diabetic retinopathy",
                origin=Origin.RULE,
                because=["more than microaneurysms: 9 haemorrhages, 3 hard exudates", "no sign of the severe stage"],
                stated="3",
                disagrees=True,
                evidence=[Evidence(text="masks of microaneurysms, haemorrhages and exudates", mask="haemorrhage")],
            ),
            Grade(
                scale="NHS-FBG",
                version="2025-05",
                value="R2L",
                name="pre-proliferative retinopathy, low risk",
                origin=Origin.RULE,
                because=["8 or more blot haemorrhages"],
                evidence=[Evidence(text="9 regions in the mask of haemorrhages", mask="haemorrhage")],
            ),
            Grade(
                scale="NHS-FBG-M",
                version="2025-05",
                value="M1",
                name="referable maculopathy",
                origin=Origin.RULE,
                because=["hard exudate within 1 disc diameter of the fovea (0.7)"],
                evidence=[Evidence(text="mask of hard exudates", mask="hard_exudate")],
            ),
            Grade(
                scale="ICDR-DME",
                version="2003",
                value=None,
                origin=Origin.RULE,
                needs=["retinal thickness (optical coherence tomography)"],
            ),
        ],
        impression=Impression(
            origin=Origin.SCORING,
            text="Moderate non-proliferative diabetic retinopathy (probability 0.81).",
            diagnosis="moderate_npdr",
            probability=0.81,
            calibrated=True,
            diagnoses=[
                Diagnosis(name="moderate_npdr", probability=0.81),
                Diagnosis(name="hypertensive_retinopathy", probability=0.09),
                Diagnosis(name="glaucoma", probability=0.06),
                Diagnosis(name="normal", probability=0.04),
            ],
            threshold=0.42,
            evidence=[Evidence(text="masks of microaneurysms, haemorrhages and exudates", mask="haemorrhage")],
        ),
        referral=Referral(
            origin=Origin.RULE,
            urgency=Urgency.SOON,
            refer=True,
            text="Refer to an ophthalmologist (3 to 6 months); exudates near the fovea: OCT to confirm.",
            rules="ICO 2017",
            because=["ICDR 2: refer, 3 to 6 months"],
        ),
        limits=list(LIMITS),
        words=[
            Words(
                text="There are several haemorrhages outside the macula.", verdict="supported", about=["haemorrhage"]
            ),
            Words(text="There are many drusen in the macula & periphery.", verdict="contradicted", about=["drusen"]),
            Words(text="The patient has had diabetes for <10 years.", verdict="no image evidence"),
        ],
        flags=[
            Flag(
                text="The model calls it severe (ICDR 3), the findings give moderate (ICDR 2): a person must decide.",
                about="grades.ICDR",
            ),
            Flag(
                text="Cotton-wool spots: the model says yes (0.58), the mask shows none.",
                about="lesions.cotton_wool_spot",
            ),
        ],
    )


def left_eye() -> EyeReport:
    return EyeReport(
        laterality=Laterality(
            origin=Origin.MEASUREMENT,
            eye="left",
            probability=0.99,
            evidence=[Evidence(text="disc on the left of the fovea", mask="disc")],
        ),
        photograph=Photograph(
            name="P-0017_OS.jpg", sha256="7e" * 32, width=2048, height=1536, fields="both", view=0.94
        ),
        gradability=Gradability(
            value="good",
            is_retina=True,
            score=0.79,
            parts={"illumination": 0.79, "sharpness": 0.88, "contrast": 0.9, "field": 0.94},
        ),
        media=Statement(origin=Origin.MODEL_TEXT, text="The media are clear."),
        disc=Disc(
            found=True,
            box=Box(left=352, top=650, right=570, bottom=888),
            diameter=238.0,
            cup_disc_ratio=0.34,
            statements=[
                Statement(
                    origin=Origin.MEASUREMENT,
                    text="Vertical cup-disc ratio 0.34.",
                    evidence=[Evidence(text="height of the cup 81 px, of the disc 238 px", mask="cup")],
                )
            ],
        ),
        vessels=Vessels(
            found=True,
            density=0.121,
            statements=[
                Statement(
                    origin=Origin.SEGMENTATION,
                    text="Vessels cover 12.1 % of the field.",
                    evidence=[Evidence(text="mask of vessels", mask="vessel")],
                )
            ],
        ),
        macula=Macula(
            centre=(1046.0, 771.0),
            statements=[
                Statement(
                    origin=Origin.SEGMENTATION,
                    text="No hard exudate is seen.",
                    evidence=[Evidence(text="no region in the mask of hard exudates", mask="hard_exudate")],
                )
            ],
        ),
        lesions=[
            Lesion(
                kind="microaneurysm",
                present=True,
                origin=Origin.SEGMENTATION,
                probability=0.78,
                answered=0.72,
                drawn=2,
                count=2,
                band="one to five",
                zones=["superotemporal"],
                nearest_fovea=2.1,
                boxes=[Box(left=1210, top=402, right=1221, bottom=414)],
                evidence=[Evidence(text="2 regions in the mask of microaneurysms", mask="microaneurysm")],
            ),
            *(
                Lesion(
                    kind=kind,
                    present=False,
                    origin=Origin.SEGMENTATION,
                    probability=0.93,
                    answered=0.07,
                    drawn=0,
                    evidence=[Evidence(text=f"no region in the mask of {kind}", mask=kind)],
                )
                for kind in ("haemorrhage", "hard_exudate", "cotton_wool_spot")
            ),
            Lesion(kind="drusen", present=False, origin=Origin.SCORING, probability=0.97, answered=0.03),
        ],
        grades=[
            Grade(
                scale="ICDR",
                version="2003",
                value="1",
                name="mild non-proliferative diabetic retinopathy",
                origin=Origin.RULE,
                because=["microaneurysms only"],
                stated="1",
                evidence=[Evidence(text="2 regions in the mask of microaneurysms", mask="microaneurysm")],
            ),
            Grade(
                scale="NHS-FBG",
                version="2025-05",
                value="R1",
                name="background retinopathy",
                origin=Origin.RULE,
                because=["a microaneurysm"],
                evidence=[Evidence(text="2 regions in the mask of microaneurysms", mask="microaneurysm")],
            ),
            Grade(
                scale="NHS-FBG-M",
                version="2025-05",
                value="M0",
                name="no referable maculopathy",
                origin=Origin.RULE,
                because=["no exudate within the macula"],
                evidence=[Evidence(text="no region in the mask of hard exudates", mask="hard_exudate")],
            ),
        ],
        impression=Impression(
            origin=Origin.SCORING,
            text="Mild non-proliferative diabetic retinopathy (probability 0.74).",
            diagnosis="mild_npdr",
            probability=0.74,
            calibrated=True,
            diagnoses=[Diagnosis(name="mild_npdr", probability=0.74), Diagnosis(name="normal", probability=0.26)],
            threshold=0.42,
            evidence=[Evidence(text="2 regions in the mask of microaneurysms", mask="microaneurysm")],
        ),
        referral=Referral(
            origin=Origin.RULE,
            urgency=Urgency.ROUTINE,
            refer=False,
            text="No referral; photograph again in 6 to 12 months.",
            rules="ICO 2017",
            because=["ICDR 1: 6 to 12 months"],
        ),
        limits=list(LIMITS),
        words=[Words(text="A few microaneurysms lie above the macula.", verdict="supported", about=["microaneurysm"])],
    )


def dark_report() -> Report:
    """One photograph that is too dark to be graded, of an eye whose side nobody gave."""
    referral = Referral(
        origin=Origin.RULE,
        urgency=Urgency.ROUTINE,
        refer=None,
        text="Repeat the photograph; refer for an examination if it cannot be had in better quality.",
        rules="ICO 2017",
        because=["the photograph cannot be graded"],
    )
    dark = EyeReport(
        laterality=Laterality(origin=Origin.MEASUREMENT, eye=None),
        photograph=Photograph(name="dark.png", sha256="0a" * 32, width=1024, height=1024, view=0.55),
        gradability=Gradability(
            value="not",
            is_retina=True,
            reasons=["too dark", "small vessels cannot be told apart"],
            score=0.08,
            parts={"illumination": 0.08, "sharpness": 0.21, "contrast": 0.3, "field": 0.55},
        ),
        grades=[
            Grade(
                scale="ICDR",
                version="2003",
                value=None,
                origin=Origin.RULE,
                needs=["a photograph that can be graded"],
            )
        ],
        referral=referral,
        limits=list(LIMITS),
        flags=[
            Flag(text="This photograph cannot be graded (too dark): repeat it or examine the eye.", about="photograph"),
            Flag(text="The eye side was not given and the photograph does not tell it.", about="laterality"),
        ],
    )
    return Report(
        id="c9f0f895-fb98-4b91-99f5-1fd0297e236d",
        created=datetime(2026, 11, 23, 10, 9, tzinfo=UTC),
        software=software(),
        eyes=[dark],
        referral=referral,
    )
