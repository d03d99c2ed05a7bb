"""Unusual words for classes, for training alone: Latin names, words of other languages and of the trade.

They join the captions of a class, so that words that people type lie near it. Phrases of `scores.TYPED`, which
measure how much wording matters, are not among them.
"""

from __future__ import annotations

from typing import Final

CROP_WORDS: Final[dict[int, tuple[str, ...]]] = {
    1: ("Triticum aestivum", "wheat crop", "winter cereal", "small grains", "blé tendre", "Weizen", "trigo",
        "wheat stubble"),
    2: ("Triticum durum", "macaroni wheat", "blé dur", "grano duro"),
    3: ("Hordeum vulgare", "barley crop", "orge", "Gerste", "cebada", "feed barley"),
    4: ("Secale cereale", "seigle", "Roggen", "rye crop"),
    5: ("Avena sativa", "avoine", "Hafer", "oats for grain", "oat crop"),
    6: ("Zea mays", "Indian corn", "corn", "corn plants", "maïs", "maíz", "milho", "mealies", "field corn",
        "cornfields"),
    7: ("Oryza sativa", "lowland rice", "irrigated rice", "rice paddies", "riz", "arroz", "padi", "upland rice"),
    8: ("Triticosecale", "triticale crop", "wheat-rye cross"),
    9: ("Sorghum bicolor", "pearl millet", "millets", "milo", "jowar and bajra", "teff", "buckwheat", "mil et sorgho"),
    10: ("Solanum tuberosum", "ware potatoes", "spuds", "pommes de terre", "Kartoffeln", "papas", "potato crop"),
    11: ("Beta vulgaris", "sugarbeets", "betterave sucrière", "Zuckerrüben", "remolacha"),
    12: ("Manihot esculenta", "cassava", "manioc", "yuca", "yams", "sweet potatoes", "turnips", "fodder beet"),
    13: ("Helianthus annuus", "tournesol", "Sonnenblumen", "girasol", "sunflower seed", "oil sunflower"),
    14: ("Brassica napus", "canola", "colza", "Raps", "oilseed crop", "mustard seed", "rape seed"),
    15: ("Glycine max", "soy", "soybean field", "soja", "beans for oil and feed", "soya plantation", "soy plants"),
    16: ("Gossypium hirsutum", "cotton fields", "coton", "algodón", "Baumwolle", "upland cotton", "fibre cotton"),
    17: ("Arachis hypogaea", "groundnut crop", "peanuts", "sesame", "flax", "linseed", "arachide", "hemp",
        "castor beans"),
    18: ("Nicotiana tabacum", "tabac", "tobacco fields", "tabaco"),
    19: ("Saccharum officinarum", "sugarcane", "cane plantation", "canne à sucre", "caña de azúcar",
        "herbs and spices"),
    20: ("Cicer arietinum", "grain legumes", "lentils", "chickpeas", "dry beans", "cowpea", "Phaseolus", "pois",
        "mung beans"),
    21: ("Solanum lycopersicum", "tomato plants", "tomates", "tomatoes for paste"),
    22: ("market garden", "vegetables", "kitchen gardens", "cabbages", "onions", "légumes", "Gemüse", "truck crops",
        "melons"),
    23: ("tulips", "cut flowers", "flower bulbs", "rose fields", "ornamentals"),
    24: ("Fragaria", "strawberry beds", "fraises", "soft fruit"),
    25: ("Trifolium", "red clover", "berseem", "trèfle", "Egyptian clover"),
    26: ("Medicago sativa", "alfalfa", "luzerne", "alfalfa for hay", "Luzerne", "lucerne hay"),
    27: ("vetch", "fodder crops", "forage mixture", "sainfoin", "hay crops", "fourrage"),
    29: ("ley", "sown pasture", "rotation grass", "ryegrass", "Lolium", "prairie temporaire", "Ackergras"),
    30: ("Malus domestica", "apples", "pommiers", "Apfelbäume", "orchard", "fruit trees"),
    31: ("Pyrus communis", "pear trees", "poiriers", "pears"),
    32: ("Prunus avium", "stone fruit", "cherry trees", "peaches", "apricots", "plums", "Prunus persica"),
    33: ("Prunus dulcis", "almond trees", "walnuts", "pistachios", "hazelnuts", "Juglans regia", "pecans",
        "almond orchard"),
    34: ("date palms", "Phoenix dactylifera", "bananas", "mango trees", "Musa", "berries", "figs", "pomegranates",
        "mangoes"),
    35: ("Citrus sinensis", "orange trees", "citrus orchard", "oranges", "agrumes", "naranjos"),
    36: ("Citrus limon", "lemons", "mandarins", "limes", "grapefruit trees"),
    37: ("Olea europaea", "olive trees", "oliviers", "olivar", "olive orchard"),
    38: ("Vitis vinifera", "grape vines", "wine grapes", "vignes", "viñedo", "Weinberge", "table grapes", "grapevines"),
    39: ("tree nursery", "saplings", "container plants"),
    40: ("oil palm", "Elaeis guineensis", "coffee", "tea", "cocoa", "rubber trees", "hops", "palm oil plantation",
        "lavender"),
}  # fmt: skip
"""By id in the legend `crops`."""

LANDCOVER_WORDS: Final[dict[int, tuple[str, ...]]] = {
    1: ("city", "town", "village", "buildings", "houses", "suburb", "built-up land", "roads", "industrial area",
        "impervious"),
    2: ("farmland", "arable", "cultivated land", "fields", "agricultural land", "tillage", "row crops", "tilled land"),
    3: ("forest", "trees", "tree cover", "woods", "rainforest", "jungle", "timber", "dense trees", "Wald", "forêt",
        "bosque"),
    4: ("shrubs", "bush", "scrub", "brush", "heath", "chaparral", "thicket", "bushland", "low woody plants",
        "matorral"),
    5: ("grass", "pasture", "meadow", "prairie", "savanna", "rangeland", "steppe", "hay meadow",
        "herbaceous vegetation"),
    6: ("desert", "bare soil", "barren land", "sand", "rock", "dunes", "unvegetated", "bare ground", "salt flat",
        "badlands"),
    7: ("water", "lake", "river", "sea", "reservoir", "open water", "pond", "ocean", "estuary", "eau", "agua"),
    8: ("marsh", "swamp", "bog", "fen", "mire", "flooded vegetation", "floodplain", "mangrove", "reed bed", "peatland"),
}  # fmt: skip
"""By id in the legend `landcover`."""
