"""How well languages are provided with data: the six classes of Joshi et al., 2020 (arXiv 2004.09095).

The list that the paper publishes says a name and a class; here they lie by language code. Class 0, nine tenths of the
list, is left out: its names rarely have one code, and no class is better than another language's.
"""

from __future__ import annotations

import re

_CLASSES = {
    5: "ar ara arb de deu en eng es spa fr fra ja jpn zh zho cmn",
    4: """ca cat cs ces eu eus fa fas pes fi fin hi hin hr hrv hu hun it ita ko kor nl nld pl pol pt por ru rus
        sr srp sv swe tr tur vi vie""",
    3: """af afr arz be bel bg bul bn ben bs bos ceb da dan el ell et est ekk fil gl glg he heb id ind ka kat kk kaz
        la lat lt lit lv lav lvs ms msa zsm ro ron sk slk sl slv ta tam th tha tl tgl uk ukr ur urd uz uzb uzn""",
    2: """am amh ga gle gom ha hau ht hat is isl kok lo lao mr mar mt mlt pa pan pnb sa san sw swa swh ti tir
        tn tsn wo wol xh xho yo yor zu zul""",
    1: """ab abk ace ak aka an arg as asm ast ay aym az aze azj ba bak bho bi bis bm bam bo bod br bre ce che
        ch cha chr ckb co cos cr cre crh cv chv cy cym din dv div dz dzo ee ewe eo epo ff ful fj fij fo fao fur
        fy fry gd gla gn grn gu guj gv glv haw hy hye ia ina ie ile ig ibo ilo io ido iu iku jv jav kaa kab
        ki kik kl kal km khm kn kan ks kas ku kur kmr kw cor ky kir lb ltz lg lug li lim ln lin mai mg mlg plt
        mi mri min mk mkd ml mal mn mon khk my mya nb nob ne nep npi nn nno no nor nso nv nav ny nya oc oci
        om orm or ori ory os oss pap pi pli ps pus qu que rm roh rn run rw kin sah sc srd scn sco sd snd
        se sme sg sag si sin sm smo sn sna so som sq sqi als ss ssw st sot su sun te tel tg tgk tk tuk to ton
        tpi ts tso tt tat tum tw twi ty tah tyv ug uig ve ven vo vol wa wln war wuu yi yid yue za zha""",
}
_CLASS_OF = {code: number for number, codes in _CLASSES.items() for code in codes.split()}


def resource_class(language: str) -> str | None:
    """`class 1` (hardly any labelled data) to `class 5` (the best served) of a BCP 47 or FLORES code (`pt-BR`,
    `eng_Latn`), by its language alone; None where the list has no such language above class 0."""
    number = _CLASS_OF.get(re.split("[-_]", language)[0].lower())
    return None if number is None else f"class {number}"
